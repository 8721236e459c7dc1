"use strict";
// Figures: values under the pointer, and a part of a curve. The drawings are whole without this script.
const figures = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const told = document.createElement("output");
  told.className = "told";
  told.hidden = true;
  document.body.append(told);

  const power = (value) => value.toExponential(2).replace(/\.?0+e\+?/, "e");
  const short = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-3 || size >= 1e6) return power(value);
    return String(Number(value.toPrecision(4)));
  };

  function scale(text) {
    const [low, high, log, whole] = text.split(" ").map(Number);
    const to = (value) => (log ? Math.log10(value) : value);
    const from = (place) => (log ? 10 ** place : place);
    return { low: to(low), high: to(high), from, to, log, whole };
  }

  function ticks({ low, high, from, to, log, whole }, wanted) {
    const round = (step) => {
      const power = 10 ** Math.floor(Math.log10(step));
      return [1, 2, 5, 10].map((digit) => digit * power).find((rounded) => rounded >= step * 0.999);
    };
    const values = [];
    if (log && high - low >= 0.8) {
      const every = Math.ceil((high - low) / wanted);
      for (let power = Math.floor(low); power <= high; power += every) {
        for (const digit of high - low < 2.5 ? [1, 2, 5] : [1]) {
          const place = power + Math.log10(digit);
          if (place >= low && place <= high) values.push(from(place));
        }
      }
    } else {
      const [first, last] = [from(low), from(high)];
      const step = Math.max(round((last - first) / wanted), whole ? 1 : 0);
      for (let i = Math.ceil(first / step); i * step <= last; i++) values.push(i * step);
    }
    const shown = values.filter((value) => !whole || Number.isInteger(value));
    // All in one notation: 1e-3 beside 5e-4.
    const sizes = shown.map(Math.abs).filter((size) => size > 0);
    const powers = sizes.some((size) => size < 1e-3) && sizes.every((size) => size < 0.1);
    return shown.map((value) => [to(value), powers && value !== 0 ? power(value) : short(value)]);
  }

  // The places of a series in the drawing.
  function places(series) {
    const found = [];
    for (const path of series.querySelectorAll("path")) {
      for (const [, x, y] of path.getAttribute("d").matchAll(/[ML]([-\d.]+) ([-\d.]+)/g)) found.push([Number(x), Number(y)]);
    }
    for (const bar of series.querySelectorAll("rect")) {
      const [x, y, width] = ["x", "y", "width"].map((name) => Number(bar.getAttribute(name)));
      found.push([x + width / 2, y]);
    }
    return found;
  }

  function tell(event, text) {
    told.textContent = text;
    told.hidden = false;
    const { width, height } = told.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 4);
    const y = event.clientY + 14 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 14;
    told.style.left = `${Math.max(4, x)}px`;
    told.style.top = `${y}px`;
  }

  function curves(svg, plot) {
    const area = plot.getAttribute("viewBox").split(" ").map(Number);
    const [left, top, width, height] = area;
    const [x, y] = [scale(plot.dataset.x), scale(plot.dataset.y)];
    const names = plot.dataset.names.split("\n");
    const all = [...plot.querySelectorAll(".series")].map((series) => ({ name: series.dataset.name, places: places(series) }));
    const grid = svg.querySelector(".grid");
    const whole = grid.innerHTML;
    const label = grid.lastElementChild;
    const put = (name, attributes, parent) => {
      const element = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      return parent.appendChild(element);
    };
    const back = put("rect", { x: left, y: top, width, height, fill: "transparent" }, svg);
    svg.insertBefore(back, plot);
    const mark = put("path", { class: "mark", "stroke-linecap": "round", "stroke-width": 9, stroke: "var(--ink)" }, plot);
    const choice = put("rect", { class: "choice", y: top, height, fill: "var(--accent)", "fill-opacity": 0.2 }, plot);
    const reset = document.createElement("button");
    reset.textContent = "Show all";
    reset.hidden = true;
    svg.after(reset);

    // What is shown: a part of the drawing.
    let view = [...area];
    const value = (axis, place, from, length, turned) => {
      const share = turned ? 1 - (place - from) / length : (place - from) / length;
      const found = axis.from(axis.low + (axis.high - axis.low) * share);
      if (axis.whole) return short(Math.round(found));
      // No more digits than places in the drawing have.
      if (axis.log) return short(Number(found.toPrecision(3)));
      const digits = Math.floor(-Math.log10((axis.high - axis.low) / length / 50));
      return short(Number(found.toFixed(Math.min(Math.max(digits, 0), 20))));
    };
    const show = () => {
      const is_whole = view[0] === left && view[2] === width;
      if (is_whole) view = [...area];
      plot.setAttribute("viewBox", view.join(" "));
      plot.classList.toggle("zoomed", !is_whole);
      reset.hidden = is_whole;
      if (is_whole) {
        grid.innerHTML = whole;
        return;
      }
      grid.replaceChildren();
      const ends = (axis, first, last) => ({ ...axis, low: axis.low + (axis.high - axis.low) * first, high: axis.low + (axis.high - axis.low) * last });
      const across = ends(x, (view[0] - left) / width, (view[0] + view[2] - left) / width);
      const up = ends(y, 1 - (view[1] + view[3] - top) / height, 1 - (view[1] - top) / height);
      const text = (attributes, content) => (put("text", { fill: "var(--ink)", ...attributes }, grid).textContent = content);
      for (const [place, content] of ticks(up, 5)) {
        const at = top + height * (1 - (place - up.low) / (up.high - up.low));
        put("path", { d: `M${left} ${at}h${width}`, stroke: "var(--line)" }, grid);
        text({ x: left - 6, y: at + 4, "text-anchor": "end" }, content);
      }
      let free = 0;
      for (const [place, content] of ticks(across, 6)) {
        const [at, room] = [left + (width * (place - across.low)) / (across.high - across.low), 4 * content.length];
        if (at - room < free || at + room > svg.viewBox.baseVal.width) continue;
        free = at + room + 6;
        text({ x: at, y: top + height + 18, "text-anchor": "middle" }, content);
      }
      put("path", { d: `M${left} ${top + height}h${width}`, stroke: "var(--line)" }, grid);
      grid.append(label);
    };
    const zoom = (from, to) => {
      [from, to] = [Math.max(left, Math.min(from, to)), Math.min(left + width, Math.max(from, to))];
      if (to - from < width / 1000) return;
      // As high as what is shown needs.
      const shown = all.flatMap((one) => one.places).filter(([at]) => at >= from && at <= to).map(([, at]) => at);
      const [low, high] = shown.length > 1 ? [Math.min(...shown), Math.max(...shown)] : [top, top + height];
      const room = Math.max((high - low) * 0.05, height / 500);
      view = [from, low - room, to - from, high - low + 2 * room];
      if (to - from >= width - 0.5) view = [...area];
      show();
    };
    reset.addEventListener("click", () => ((view = [...area]), show()));

    // Where the pointer is, in the whole drawing.
    const at = (event) => {
      const box = back.getBoundingClientRect();
      return [view[0] + ((event.clientX - box.left) / box.width) * view[2], view[1] + ((event.clientY - box.top) / box.height) * view[3]];
    };
    let from = null;
    const hide = () => {
      told.hidden = true;
      mark.removeAttribute("d");
    };
    const hover = (event) => {
      const [px, py] = at(event);
      let nearest = null;
      for (const { name, places } of all) {
        for (const place of places) {
          const distance = ((place[0] - px) / view[2]) ** 2 + (((place[1] - py) / view[3]) * 0.5) ** 2;
          if (nearest === null || distance < nearest.distance) nearest = { distance, name, place };
        }
      }
      if (nearest === null || nearest.distance > 0.02) return hide();
      const [mx, my] = nearest.place;
      mark.setAttribute("d", `M${mx} ${my}h0`);
      const [across, up] = [value(x, mx, left, width, false), value(y, my, top, height, true)];
      tell(event, `${nearest.name}\n${names[0]}: ${across}\n${names[1]}: ${up}`);
    };
    for (const element of [back, plot]) {
      element.addEventListener("pointerdown", (event) => {
        from = at(event)[0];
        element.setPointerCapture(event.pointerId);
      });
      element.addEventListener("pointermove", (event) => {
        if (from === null) return hover(event);
        hide();
        const [low, high] = [Math.min(from, at(event)[0]), Math.max(from, at(event)[0])];
        choice.setAttribute("x", low);
        choice.setAttribute("width", high - low);
      });
      element.addEventListener("pointerup", (event) => {
        const to = at(event)[0];
        const [start, is_drag] = [from, from !== null && Math.abs(to - from) > view[2] / 100];
        from = null;
        choice.removeAttribute("width");
        if (is_drag) zoom(start, to);
        else hover(event);
      });
      element.addEventListener("pointercancel", () => ((from = null), choice.removeAttribute("width")));
      // From the area to a line in it, or back, nothing is left.
      element.addEventListener("pointerleave", ({ relatedTarget: to }) => {
        if (to !== back && !plot.contains(to)) hide();
      });
      element.addEventListener("dblclick", () => ((view = [...area]), show()));
    }
    svg.tabIndex = 0;
    svg.addEventListener("keydown", (event) => {
      const [middle, half] = [view[0] + view[2] / 2, view[2] / 2];
      const moves = { "+": [middle - half / 2, middle + half / 2], "-": [middle - 2 * half, middle + 2 * half], ArrowLeft: [view[0] - half / 2, view[0] + 1.5 * half], ArrowRight: [view[0] + half / 2, view[0] + 2.5 * half] };
      if (event.key === "0" || event.key === "Escape") (view = [...area]), show();
      else if (moves[event.key]) zoom(...moves[event.key]);
      else return;
      event.preventDefault();
    });
    return { view: () => (plot.classList.contains("zoomed") ? [view[0], view[0] + view[2]] : null), zoom };
  }

  // What a cell, a bar or a line is called, at once and where nothing hovers.
  document.addEventListener("pointerover", (event) => {
    if (event.target.dataset?.title) tell(event, event.target.dataset.title);
  });
  document.addEventListener("pointerout", (event) => {
    if (event.target.dataset?.title) told.hidden = true;
  });

  const attach = (svg) => {
    // The browser would tell them, too, and late.
    for (const title of svg.querySelectorAll("* > title")) {
      if (title.parentNode !== svg) title.parentNode.dataset.title = title.textContent;
      title.remove();
    }
    const plot = svg.querySelector("svg.plot");
    return plot ? curves(svg, plot) : null;
  };
  return { attach };
})();
let attached = [...document.querySelectorAll("figure > svg")].map(figures.attach);
