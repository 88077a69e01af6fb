"use strict";
// Draws what <script type="application/json"> describes. Every name was made visible and every
// "<" escaped before it came here; plotly takes a few tags for markup, so they are escaped again.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const narrow = () => window.innerWidth < 640;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shortened = (text) => {
    const most = narrow() ? 14 : 34;
    return plain(text.length > most ? "…" + text.slice(text.length - most + 1) : text);
  };
  const config = { responsive: true, displaylogo: false, displayModeBar: false };
  const viridis = [
    "#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725",
  ];

  function layout(extra) {
    return Object.assign({
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      font: { color: colour("--ink"), size: narrow() ? 10 : 12 },
      margin: { t: 8, r: 12, b: 48, l: 12 },
      hoverlabel: { align: "left", namelength: -1 },
    }, extra);
  }

  const indices = (list) => list.map((_, index) => index);

  function labelled(labels, most) {
    const step = Math.max(1, Math.ceil(labels.length / most));
    const places = indices(labels).filter((place) => place % step === 0);
    return { tickmode: "array", tickvals: places, ticktext: places.map((p) => plain(labels[p])) };
  }

  function axis(labels) {
    const longest = Math.max(...labels.map((label) => label.length));
    const most = Math.floor((narrow() ? 240 : 800) / (longest * 7 + 14));
    return Object.assign(
      { automargin: true, gridcolor: colour("--grid"), zeroline: false, tickangle: 0,
        fixedrange: true, range: [-0.5, labels.length - 0.5] },
      labelled(labels, Math.max(2, most)),
    );
  }

  function scale(figure) {
    if (figure.signed) {
      return {
        zmin: -figure.high, zmax: figure.high, colorscale: "RdBu",  // blue below 0, red above
        colorbar: { nticks: 5 },
      };
    }
    // Logarithmic: a factor counts alike wherever it is.
    const ticks = [figure.low, ...figure.marks.map((mark) => mark[0]), 1, figure.high];
    const names = Object.fromEntries(figure.marks);
    return {
      zmin: Math.log10(figure.low), zmax: Math.log10(figure.high),
      colorscale: viridis.map((value, index) => [index / (viridis.length - 1), value]),
      colorbar: {
        tickvals: ticks.map((value) => Math.log10(value)),
        ticktext: ticks.map((value) => (
          names[value] && !narrow() ? value.toFixed(2) + "<br>" + names[value] : String(value))),
      },
    };
  }

  function heatmap(figure) {
    const shown = figure.values.map((row) => row.map((value) => {
      if (value === null) return null;
      return figure.signed ? value : Math.log10(Math.max(value, figure.low / 10));
    }));
    const text = figure.values.map((row, r) => row.map((value, c) =>
      "<b>" + plain(figure.rows[r]) + "</b><br>" + plain(figure.columns[c]) + "<br>" +
      plain(figure.unit) + " " + (value === null ? "unknown" : value.toPrecision(3))));
    const colours = scale(figure);
    Object.assign(colours.colorbar, {
      orientation: "h", thickness: 12, y: 1, yanchor: "bottom", ypad: 4, len: narrow() ? 1 : 0.6,
      x: 0, xanchor: "left", outlinewidth: 0,
    });
    const trace = Object.assign({
      type: "heatmap", z: shown, text: text, hoverinfo: "text", hoverongaps: false,
      x: indices(figure.columns), y: indices(figure.rows),
      xgap: figure.columns.length > 60 ? 0 : 1, ygap: figure.rows.length > 60 ? 0 : 1,
    }, colours);
    const row = figure.rows.length > 60 ? 12 : 20;
    return [[trace], layout({
      height: Math.max(190, row * figure.rows.length + 120),
      xaxis: axis(figure.columns),
      yaxis: {
        automargin: true, autorange: "reversed", fixedrange: true, zeroline: false,
        tickmode: "array", tickvals: indices(figure.rows), ticktext: figure.rows.map(shortened),
        tickfont: { size: row - 9, family: "ui-monospace, monospace" },
      },
    })];
  }

  const hues = ["#2f7ed8", "#d9602b", "#2a9d58", "#a05fc4"];

  function bands(layer, columns) {
    const traces = [];
    layer.bands.forEach((band, index) => {
      const hue = hues[index % hues.length];
      const edge = (sign) => band.mean.map((m, i) => (m === null ? null : m + sign * band.sd[i]));
      const line = { type: "scatter", mode: "lines", x: indices(columns), legendgroup: band.name };
      traces.push(Object.assign({}, line, {
        y: edge(-1), line: { width: 0 }, showlegend: false, hoverinfo: "skip" }));
      traces.push(Object.assign({}, line, {
        y: edge(1), line: { width: 0 }, fill: "tonexty", fillcolor: hue + "2e",
        showlegend: false, hoverinfo: "skip" }));
      traces.push(Object.assign({}, line, {
        y: band.mean, name: plain(band.name), mode: "lines+markers", line: { color: hue, width: 2 },
        marker: { size: 5 }, hoverinfo: "text", text: band.mean.map((m, i) =>
          "<b>" + plain(band.name) + "</b><br>" + plain(columns[i]) + "<br>" + (m === null ?
          "unknown" : "mean " + m.toPrecision(3) + ", sd " + band.sd[i].toPrecision(3))),
      }));
    });
    return [traces, layout({
      height: 340, xaxis: axis(columns), showlegend: true,
      yaxis: { automargin: true, gridcolor: colour("--grid"), zeroline: false, fixedrange: true,
        title: { text: "mean ± sd" } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    })];
  }

  function shares(layer, columns) {
    const width = (layer.end - layer.start) / layer.shares.length;
    const middle = layer.shares.map((_, index) => layer.start + width * (index + 0.5));
    const text = layer.shares.map((row, b) => row.map((value, c) =>
      plain(columns[c]) + "<br>" + (value * 100).toFixed(1) + " % at " + middle[b].toFixed(2) +
      " sd"));
    return [[{
      type: "heatmap", z: layer.shares, x: indices(columns), y: middle, text: text,
      hoverinfo: "text", colorscale: "Viridis", showscale: false,
    }], layout({
      height: 300, xaxis: axis(columns),
      yaxis: { automargin: true, fixedrange: true, zeroline: false,
        title: { text: "sd of the reference" } },
    })];
  }

  const many = [...hues, "#c2365b", "#7a8b23", "#2aa0a4", "#8a6d4b"];

  function lines(figure) {
    const traces = [];
    const named = new Set();
    figure.curves.forEach((curve) => {
      const hue = many[curve.group % many.length];
      const line = { type: "scatter", x: curve.x, legendgroup: curve.name, showlegend: false };
      if (curve.low.length) {
        const edge = { mode: "lines", line: { width: 0 }, hoverinfo: "skip" };
        traces.push(Object.assign({}, line, edge, { y: curve.low }));
        traces.push(Object.assign({}, line, edge, {
          y: curve.high, fill: "tonexty", fillcolor: hue + "2e" }));
      }
      const number = (value) => (value === null ? "unknown" : value.toPrecision(3));
      traces.push(Object.assign({}, line, {
        y: curve.y, name: plain(curve.name), showlegend: !named.has(curve.name),
        mode: curve.x.length > 40 ? "lines" : "lines+markers",
        line: { color: hue, width: 2 }, marker: { size: 5 }, hoverinfo: "text",
        text: curve.y.map((value, i) => "<b>" + plain(curve.name) + "</b><br>" +
          plain(figure.ticks[curve.x[i]] || figure.x_title + " " + curve.x[i]) + "<br>" +
          plain(figure.y_title) + " " + number(value) + (curve.low.length ?
          " (" + number(curve.low[i]) + " to " + number(curve.high[i]) + ")" : "")),
      }));
      named.add(curve.name);
    });
    const plainAxis = { automargin: true, gridcolor: colour("--grid"), zeroline: false,
      fixedrange: true };
    const below = figure.ticks.length ? axis(figure.ticks) : plainAxis;
    return [traces, layout({
      height: 340, showlegend: named.size > 1,
      xaxis: Object.assign({}, below, { title: { text: plain(figure.x_title) } }),
      yaxis: Object.assign({}, plainAxis, {
        type: figure.log ? "log" : "linear", title: { text: plain(figure.y_title) } }),
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    })];
  }

  function draw(place, figure) {
    const at = (part) => document.getElementById("plot-" + place + part);
    if (figure.kind !== "distributions") {
      const drawn = figure.kind === "heatmap" ? heatmap(figure) : lines(figure);
      Plotly.react(at(""), ...drawn, config);
      return;
    }
    const layer = figure.layers[Number(at("-layer").value)];
    Plotly.react(at(""), ...bands(layer, figure.columns), config);
    at("-shares").hidden = layer.shares.length === 0;
    if (layer.shares.length) Plotly.react(at("-shares"), ...shares(layer, figure.columns), config);
  }

  const all = () => figures.forEach((figure, place) => draw(place, figure));
  figures.forEach((figure, place) => {
    if (figure.kind !== "distributions") return;
    const select = document.getElementById("plot-" + place + "-layer");
    select.addEventListener("change", () => draw(place, figure));
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  let wasNarrow = narrow();
  window.addEventListener("resize", () => {
    if (wasNarrow !== narrow()) all();
    wasNarrow = narrow();
  });
  all();
})();
