"""Style sheets: of the pictures (used alone too) and of the page."""

from __future__ import annotations

from tailorbird.report.colour import SERIES_DARK, SERIES_LIGHT

_INK = {"ink": ("#1c2126", "#e8eaed"), "soft": ("#59626b", "#a3abb4"), "grid": ("#dfe3e7", "#363c43")}
_SURFACE = ("#ffffff", "#16191d")

_CHART = """
.chart{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px;
font-variant-numeric:tabular-nums}
.chart .name{font-size:15px;font-weight:600}
.chart .line{fill:none;stroke-width:1.5;stroke-linejoin:round;opacity:.75}.chart .mark{stroke-width:1}
.chart .grid,.chart .blank,.chart .lead{fill:none}.chart .blank{stroke-dasharray:2 3}
.chart .faint{opacity:.5}.chart .halo{paint-order:stroke;stroke-width:3px;stroke-linejoin:round}
.chart .on-dark{fill:#fff}.chart .on-light{fill:#000}
"""

_PAGE = """
*{box-sizing:border-box}html{color-scheme:light dark;-webkit-text-size-adjust:100%}
body{margin:0;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
background:var(--paper);color:var(--ink)}
main,header,footer{max-width:1120px;margin:0 auto;padding:0 20px}header{padding-top:32px}
footer{padding-bottom:40px}h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:0 0 4px}h3{font-size:14px;margin:14px 0 6px}p{margin:4px 0 12px}
.soft,figcaption,caption{color:var(--soft)}
section{margin:20px 0;padding:18px 20px;background:var(--card);border:1px solid var(--grid);
border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:6px;font-size:13px}
section>*+.scroll,.beside>*+.scroll{margin-top:14px}
.map{display:flex;flex-wrap:wrap;gap:20px 40px;align-items:flex-start}.beside{flex:1 1 400px;min-width:0}
figcaption{font-size:13px;padding-bottom:4px}.beside figure+figure{margin-top:14px}
th,td{padding:4px 8px;text-align:left;border-bottom:1px solid var(--grid);vertical-align:middle;
overflow-wrap:break-word}
thead th{font-weight:600;font-size:13px;color:var(--soft);vertical-align:bottom}tbody th{font-weight:400}
.total th,.total td{font-weight:600}.n{text-align:right;white-space:nowrap}thead .n{white-space:normal}
.bars td.b{width:52%}.bars .bar{display:block;width:100%;height:16px}.bars th{min-width:90px}
figure{margin:0}.chart{display:block;width:100%;height:auto}.narrow{display:none}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0 0;padding:0}
.tile{flex:1 1 190px;background:var(--card);border:1px solid var(--grid);border-radius:8px;
padding:12px 16px}
.tile dt,.tile .about{font-size:13px;color:var(--soft)}.tile dd{margin:0}.key span{white-space:nowrap}
.tile .key{font-size:25px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.tile .arrow{color:var(--soft);font-weight:400}
.tile .from{font-size:16px;font-weight:400;color:var(--soft)}
.badge{display:inline-block;border:1.5px solid currentColor;border-radius:99px;padding:1px 12px;
font-weight:600}
.split{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:12px 32px;align-items:start}
.text{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid var(--grid);padding-left:12px;
margin:0 0 8px}
code,pre{font:13px/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--paper);border:1px solid var(--grid);
border-radius:6px;padding:10px 12px;margin:6px 0 12px}
code{overflow-wrap:anywhere}summary{cursor:pointer;padding:6px 0;color:var(--soft)}
.parts table{font-size:13px;min-width:720px}.scroll{overflow-x:auto}
@media screen and (max-width:760px){main,header,footer{padding:0 12px}header{padding-top:20px}
section{padding:14px 12px}.split{grid-template-columns:minmax(0,1fr)}.narrow{display:block}
.wide{display:none}.tiles{gap:8px}.tile{flex-basis:140px;padding:10px}.tile .key{font-size:17px}
.tile .from{font-size:13px}th,td{padding:4px 5px}table{font-size:13px}thead th{font-size:12px}
.bars,.bars caption,.bars thead,.bars tbody{display:block}.bars th{min-width:0}
.bars tr{display:grid;grid-template-columns:1fr 74px 62px;border-bottom:1px solid var(--grid)}
.bars th,.bars td{border:0;padding:3px 2px}.bars td.b{grid-column:1/-1;width:auto;padding-top:0}
.bars thead td.b{display:none}}
@page{margin:12mm}
@media print{body{font-size:11px;background:#fff}section,.tile{border-color:#bbb}
section{padding:8px 12px;margin:12px 0}main,header,footer{padding:0}.scroll{overflow:visible}
h1{font-size:20px}h2{font-size:15px}.tile .key{font-size:16px}.tile{flex-basis:120px}
.map,.split{display:block}.beside{margin-top:12px}figure,tr,.tile{break-inside:avoid}
h2,h3,caption,section>.soft{break-after:avoid}p{break-inside:avoid}
.map .chart{max-height:160mm;width:auto}
table,caption,thead th,figcaption,.tile dt,.tile .about,.parts table,code,pre{font-size:11px}
.scroll{break-inside:avoid}details{display:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""


def _chart_colours(mode: int) -> str:
    ink, soft, grid = (_INK[name][mode] for name in ("ink", "soft", "grid"))
    series = (SERIES_LIGHT, SERIES_DARK)[mode]
    rules = [f".s{index}{{fill:{colour};stroke:{colour}}}" for index, colour in enumerate(series)]
    rules += [f".chart text{{fill:{ink}}}.chart .soft{{fill:{soft}}}.chart .paper{{fill:{_SURFACE[mode]}}}"]
    rules += [f".chart .grid,.chart .blank{{stroke:{grid}}}.chart .lead{{stroke:{soft}}}"]
    rules += [f".chart .halo{{stroke:{_SURFACE[mode]}}}"]
    return "".join([*rules, f".saved{{fill:none;stroke:{soft};stroke-dasharray:3 2}}"])


def chart_css() -> str:
    """Style of the pictures, for light and dark surroundings; printing is always light."""
    return f"{_chart_colours(0)}@media screen and (prefers-color-scheme:dark){{{_chart_colours(1)}}}{_CHART}"


def page_css() -> str:
    """Style of the whole page."""
    modes = []
    for mode, paper in enumerate(("#f5f6f8", "#0e1013")):
        inks = "".join(f"--{name}:{values[mode]};" for name, values in _INK.items())
        modes.append(f":root{{{inks}--card:{_SURFACE[mode]};--paper:{paper}}}")
    dark = f"@media screen and (prefers-color-scheme:dark){{{modes[1]}}}"
    return f"{modes[0]}{dark}{chart_css()}{_PAGE}"
