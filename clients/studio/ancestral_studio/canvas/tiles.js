// Images side by side, each with a line under it. They are painted as they come: by rows, or whole.
import { bytes, paint } from "ancestral_pixels";

export default {
  template: `<div class="tiles" role="list" :aria-label="label"></div>`,
  props: { label: String },
  methods: {
    // `count` clear images of H × W × C take the place of what was there.
    begin(count, height, width, channels) {
      this.channels = channels;
      const figures = Array.from({ length: count }, (_, index) => {
        const figure = document.createElement("figure");
        const canvas = document.createElement("canvas");
        const caption = document.createElement("figcaption");
        figure.setAttribute("role", "listitem");
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `image ${index + 1}`);
        [canvas.width, canvas.height] = [width, height];
        figure.append(canvas, caption);
        return figure;
      });
      this.$el.replaceChildren(...figures);
    },
    // Rows from `top` on of one image; all of them from 0 on are the image.
    rows(index, top, pixels, known = null) {
      const canvas = this.$el.children[index]?.firstChild;
      if (canvas) paint(canvas, top, bytes(pixels), this.channels, known === null ? null : bytes(known));
    },
    caption(index, line) {
      const figure = this.$el.children[index];
      if (!figure) return;
      figure.lastChild.textContent = line;
      figure.firstChild.setAttribute("aria-label", `image ${index + 1}: ${line}`);
    },
  },
};
