// An image to draw on, with a pen or an eraser, by pointer or by keys. Pixels may be unknown: the canvas is clear there.
import { bytes, paint, text } from "ancestral_pixels";

const STEP = 0.25; // pixels between two prints of the pen: less than its softest edge

export default {
  template: `
    <div class="drawing" tabindex="0" role="application" :aria-label="spoken"
      @pointerdown.prevent="press" @pointermove="drag" @pointerup="lift" @pointercancel="lift"
      @keydown="key" @focus="pointed = true" @blur="pointed = false">
      <canvas ref="canvas" width="1" height="1"></canvas>
      <span v-show="pointed" class="cursor" :style="place"></span>
    </div>`,
  props: {
    label: String,
    ink: Array, // the pen's value of each channel
    eraser: Boolean,
    reach: Number, // half the pen's width, in pixels
  },
  data() {
    return { height: 1, width: 1, channels: 1, pixels: null, known: null, stroke: null, x: 0, y: 0, pointed: false };
  },
  computed: {
    spoken() {
      return (
        `${this.label}, ${this.width} by ${this.height} pixels, column ${this.x + 1}, row ${this.y + 1}. ` +
        "Arrow keys move, with Shift they draw; Space draws here."
      );
    },
    place() {
      return {
        left: `${(100 * this.x) / this.width}%`,
        top: `${(100 * this.y) / this.height}%`,
        width: `${100 / this.width}%`,
        height: `${100 / this.height}%`,
      };
    },
  },
  methods: {
    load(height, width, channels, pixels, known) {
      [this.height, this.width, this.channels] = [height, width, channels];
      [this.pixels, this.known, this.stroke] = [bytes(pixels), bytes(known), null];
      [this.x, this.y] = [width >> 1, height >> 1];
      const canvas = this.$refs.canvas;
      [canvas.width, canvas.height] = [width, height];
      paint(canvas, 0, this.pixels, channels, this.known);
    },
    // A stroke remembers what lay under it: where the pen passes twice it covers no more than once.
    begin() {
      this.stroke = { under: this.pixels.slice(), knew: this.known.slice(), cover: new Float32Array(this.known.length) };
    },
    print(x, y) {
      const { under, knew, cover } = this.stroke;
      const [left, right] = [Math.max(Math.floor(x - this.reach - 1), 0), Math.min(x + this.reach + 1, this.width)];
      const [top, bottom] = [Math.max(Math.floor(y - this.reach - 1), 0), Math.min(y + this.reach + 1, this.height)];
      for (let row = top; row < bottom; row++) {
        for (let column = left; column < right; column++) {
          const i = row * this.width + column;
          const share = Math.min(Math.max(this.reach + 0.5 - Math.hypot(column + 0.5 - x, row + 0.5 - y), 0), 1);
          if (share <= cover[i]) continue;
          cover[i] = share;
          if (this.eraser) {
            if (share >= 0.5) this.known[i] = 0;
            continue;
          }
          this.known[i] = 1;
          for (let c = 0; c < this.channels; c++) {
            const before = knew[i] ? under[i * this.channels + c] : 0;
            this.pixels[i * this.channels + c] = before + (this.ink[c] - before) * share;
          }
        }
      }
    },
    line(x, y) {
      const { x: fromX, y: fromY } = this.stroke;
      const prints = Math.max(1, Math.ceil(Math.hypot(x - fromX, y - fromY) / STEP));
      for (let i = 1; i <= prints; i++) this.print(fromX + ((x - fromX) * i) / prints, fromY + ((y - fromY) * i) / prints);
      [this.stroke.x, this.stroke.y] = [x, y];
    },
    // `drawn` while a stroke goes on, `done` after it.
    tell(event) {
      paint(this.$refs.canvas, 0, this.pixels, this.channels, this.known);
      this.$emit(event, { pixels: text(this.pixels), known: text(this.known) });
    },
    at(event) {
      const box = this.$refs.canvas.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.width;
      const y = ((event.clientY - box.top) / box.height) * this.height;
      this.x = Math.min(Math.max(Math.floor(x), 0), this.width - 1);
      this.y = Math.min(Math.max(Math.floor(y), 0), this.height - 1);
      return [x, y];
    },
    press(event) {
      if (this.pixels === null) return;
      this.$el.focus({ preventScroll: true });
      this.$el.setPointerCapture(event.pointerId);
      this.begin();
      [this.stroke.x, this.stroke.y] = this.at(event);
      this.line(this.stroke.x, this.stroke.y);
      this.tell("drawn");
    },
    drag(event) {
      if (this.stroke === null) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const one of all.length ? all : [event]) this.line(...this.at(one));
      this.tell("drawn");
    },
    lift() {
      if (this.stroke === null) return;
      this.stroke = null;
      this.tell("done");
    },
    key(event) {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] };
      const step = steps[event.key];
      if (step === undefined || this.pixels === null) return;
      event.preventDefault();
      this.x = Math.min(Math.max(this.x + step[0], 0), this.width - 1);
      this.y = Math.min(Math.max(this.y + step[1], 0), this.height - 1);
      if (!event.shiftKey && event.key !== " ") return;
      this.begin();
      this.print(this.x + 0.5, this.y + 0.5);
      this.stroke = null;
      this.tell("done");
    },
  },
};
