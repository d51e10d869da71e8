"""Floor 7, report: a study as one self-contained page, and drawings of blocks and networks as SVG.

`write_report(study, path)` gathers facts (facts.py), draws (wiring.py, drawing.py, strip.py) and lays out (page.py, page.css,
page.js); `write_zoo_page(folder)` lays out a zoo (zoo.py), `write_compression_page(folder, record)` a compression
(compressed.py, layers.py). `draw_block` and `draw_network` with `standalone=True` give picture
files of their own; `write_paths(architecture, path)` is one of a block and its path counts (paths.py, heat.py).
"""

from .compressed import compression_page, write_compression_page
from .drawing import draw_block
from .page import write_report
from .paths import draw_paths, write_paths
from .strip import draw_network
from .zoo import write_zoo_page

__all__ = [
    "compression_page",
    "draw_block",
    "draw_network",
    "draw_paths",
    "write_compression_page",
    "write_paths",
    "write_report",
    "write_zoo_page",
]
