// What gradio's components lack: the divider by keys, names for screen readers, a double click that
// resets, and a picture that a finger or a wheel can scroll past.
window.sdd = {
  download(file) {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name ?? "edited.png";
    link.click();
  },
};

(() => {
  const at = (handle, wrap) => {
    const [line, whole] = [handle.getBoundingClientRect(), wrap.getBoundingClientRect()];
    return (line.left + line.width / 2 - whole.left) / whole.width;
  };

  // The component follows the mouse alone: keys move it as a mouse would.
  const move = (handle, wrap, share) => {
    const whole = wrap.getBoundingClientRect();
    const say = (target, kind, x) =>
      target.dispatchEvent(new MouseEvent(kind, { bubbles: true, view: window, clientX: x, clientY: whole.top + 1 }));
    const knob = handle.getBoundingClientRect();
    say(handle, "mousedown", knob.left + knob.width / 2);
    const to = whole.left + whole.width * Math.min(1, Math.max(0, share));
    say(window, "mousemove", to);
    say(window, "mouseup", to);
  };

  const tell = (handle, wrap) =>
    handle.setAttribute("aria-valuenow", Math.round(100 * at(handle, wrap)));

  const keys = {
    ArrowLeft: (share) => share - 0.05, ArrowDown: (share) => share - 0.05,
    ArrowRight: (share) => share + 0.05, ArrowUp: (share) => share + 0.05,
    PageDown: (share) => share - 0.2, PageUp: (share) => share + 0.2,
    Home: () => 0, End: () => 1,
  };

  const improve = () => {
    const wrap = document.querySelector("#pictures .slider-wrap .wrap");
    const handle = wrap?.querySelector("[data-testid=slider]");
    if (!handle) return;
    const images = wrap.querySelectorAll("img");
    ["The picture before the edit", "The edited picture"].forEach((text, i) => {
      if (images[i] && images[i].alt !== text) images[i].alt = text;
    });
    if (handle.tabIndex === 0) return;
    handle.tabIndex = 0;
    const named = {
      role: "slider", "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-label": "Divider: left of it before the edit, right of it after",
    };
    Object.entries(named).forEach(([name, value]) => handle.setAttribute(name, value));
    tell(handle, wrap);
    handle.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      move(handle, wrap, keys[event.key](at(handle, wrap)));
      requestAnimationFrame(() => tell(handle, wrap));
    });
  };
  new MutationObserver(improve).observe(document.documentElement, { childList: true, subtree: true });

  document.addEventListener("dblclick", ({ target }) => {
    if (target.matches?.(".strength input[type=range]"))
      target.closest(".block").querySelector(".reset-button")?.click();
  });

  // Zooming stays with two fingers and with Ctrl; all else scrolls the page.
  const pass = (event) => {
    const picture = event.target.closest?.("#pictures .image-container");
    const several = event.touches?.length > 1 || event.ctrlKey;
    if (picture && !several && !event.target.closest("[data-testid=slider]"))
      event.stopImmediatePropagation();
  };
  for (const kind of ["wheel", "touchstart"])
    window.addEventListener(kind, pass, { capture: true, passive: true });
})();
