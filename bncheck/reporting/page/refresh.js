// A page that `bncheck watch` keeps fresh looks at itself again until it is told to stop; what was
// scrolled to, opened and chosen stays.
(() => {
  "use strict";
  const page = document.currentScript.dataset;
  const key = "bncheck " + location.pathname;
  const held = () => Array.from(document.querySelectorAll("details, select"));
  const store = (act) => { try { return act(window.sessionStorage); } catch { return null; } };
  const left = store((storage) => JSON.parse(storage.getItem(key)));
  store((storage) => storage.removeItem(key));
  if (left && left.parts.length === held().length) {
    held().forEach((part, place) => {
      if (part.tagName === "DETAILS") part.open = left.parts[place];
      else if (part.selectedIndex !== left.parts[place]) {
        part.selectedIndex = left.parts[place];
        part.dispatchEvent(new Event("change"));
      }
    });
    window.scrollTo(left.x, left.y);
  }
  const timer = setInterval(() => {
    const stale = Date.now() > Number(page.until) * 1000;
    if (!stale && (document.hidden || String(window.getSelection()))) return;
    clearInterval(timer);  // a second look before the first is done would come to nothing
    if (stale) return;
    const parts = held().map((part) => part.tagName === "DETAILS" ? part.open : part.selectedIndex);
    const now = JSON.stringify({ x: window.scrollX, y: window.scrollY, parts });
    store((storage) => storage.setItem(key, now));
    location.reload();
  }, Number(page.seconds) * 1000);
})();
