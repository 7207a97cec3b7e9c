// A pad: a point in the unit square, (0, 0) at the top left, over a picture of what lies where.
import { bytes, paint } from "ancestral_pixels";

const STEP = 0.02; // of the pad's width, by an arrow key; with Shift five times as far

export default {
  template: `
    <div class="plane" tabindex="0" role="application" aria-roledescription="pad with two axes" :aria-label="spoken"
      @pointerdown.prevent="press" @pointermove="drag" @pointerup="held = false" @pointercancel="held = false" @keydown="key">
      <canvas ref="canvas" width="1" height="1"></canvas>
      <span class="dot" :style="{ left: 100 * x + '%', top: 100 * y + '%' }"></span>
    </div>`,
  props: { label: String },
  data() {
    return { x: 0.5, y: 0.5, held: false };
  },
  computed: {
    spoken() {
      return (
        `${this.label}: ${Math.round(100 * this.x)} % across, ${Math.round(100 * this.y)} % down. ` +
        "Arrow keys move, with Shift farther; Home is the middle."
      );
    },
  },
  methods: {
    picture(height, width, channels, pixels) {
      const canvas = this.$refs.canvas;
      [canvas.width, canvas.height] = [width, height];
      paint(canvas, 0, bytes(pixels), channels);
    },
    move(x, y) {
      [this.x, this.y] = [Math.min(Math.max(x, 0), 1), Math.min(Math.max(y, 0), 1)];
      this.$emit("move", { x: this.x, y: this.y });
    },
    follow(event) {
      const box = this.$el.getBoundingClientRect();
      this.move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    },
    press(event) {
      this.held = true;
      this.$el.focus({ preventScroll: true });
      this.$el.setPointerCapture(event.pointerId);
      this.follow(event);
    },
    drag(event) {
      // A mouse leads the point wherever it goes over the pad; a finger has to be down.
      if (this.held || event.pointerType === "mouse") this.follow(event);
    },
    key(event) {
      const far = event.shiftKey ? 5 * STEP : STEP;
      const steps = { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far] };
      if (event.key === "Home") this.move(0.5, 0.5);
      else if (event.key in steps) this.move(this.x + steps[event.key][0], this.y + steps[event.key][1]);
      else return;
      event.preventDefault();
    },
  },
};
