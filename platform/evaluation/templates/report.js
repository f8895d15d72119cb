"use strict";
(() => {
  // A browser keeps about sixteen WebGL contexts and takes the oldest away without a word, so only some figures live.
  const MAX_LIVE = 8;
  // A page captures the wheel to scroll; zooming has its button. Nothing of a page is to leave it, so no sharing.
  const settings = {responsive: true, displaylogo: false, scrollZoom: false, showSendToCloud: false, plotlyServerURL: "", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "tableRotation", "resetCameraLastSave3d"]};
  const read = (holder) => JSON.parse(holder.querySelector("script").textContent);

  for (const chart of document.querySelectorAll(".chart")) {
    const {data, layout} = read(chart);
    Plotly.newPlot(chart.querySelector(".plot"), data, layout, settings);
  }

  const probe = document.createElement("canvas").getContext("webgl");
  if (!probe) return;  // the still pictures stay
  probe.getExtension("WEBGL_lose_context")?.loseContext();

  const cameras = new WeakMap();
  const live = [];       // stages with a drawn figure, the oldest first
  const visible = new Set();

  const close = (stage) => {
    const holder = stage.querySelector(".live");
    if (holder.layout?.scene?.camera) cameras.set(stage, holder.layout.scene.camera);
    stage.classList.remove("on");
    Plotly.purge(holder);
    live.splice(live.indexOf(stage), 1);
  };
  const open = (stage, wanted) => {
    if (live.includes(stage)) return;
    if (live.length >= MAX_LIVE) {
      const idle = live.find((other) => !visible.has(other)) ?? (wanted ? live[0] : undefined);
      if (!idle) return;
      close(idle);
    }
    live.push(stage);
    const {data, layout} = read(stage);
    if (cameras.has(stage)) layout.scene.camera = cameras.get(stage);
    Plotly.newPlot(stage.querySelector(".live"), data, layout, settings).then(() => {
      if (live.includes(stage)) stage.classList.add("on");
    });
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const {target, isIntersecting} of entries) {
      if (isIntersecting) visible.add(target); else visible.delete(target);
    }
    for (const stage of visible) open(stage, false);
  });
  for (const stage of document.querySelectorAll(".turnable")) {
    watcher.observe(stage);
    stage.addEventListener("pointerenter", () => open(stage, true));
    stage.addEventListener("click", () => open(stage, true));
  }
})();
