"""A search in a process of its own, for tests that kill it: python search_process.py OUT OPTIONS-AS-JSON (fake training)."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    where = Path(__file__).with_name("fakes.py")
    spec = spec_from_file_location("igcsearch_test_fakes", where)
    fakes = module_from_spec(spec)
    sys.modules[spec.name] = fakes
    spec.loader.exec_module(fakes)
    from igcsearch.search import SearchConfig, run_search
    from igcsearch.search.engines.local import LocalEngine
    from igcsearch.training import DataSpec, Recipe

    out, options = sys.argv[1], json.loads(sys.argv[2])
    resume = options.pop("resume", False)
    where = {name: options.pop(name) for name in ("storage", "study_name") if name in options}
    options["recipe"] = Recipe(epochs=options.pop("epochs", 3))
    config = SearchConfig(**{"space": fakes.SPACE, "data": DataSpec("digits"), **options})
    engine = LocalEngine(config, trainer=fakes.TRAINER)
    run_search(
        config, out, resume=resume, engine=engine, on_event=lambda e: print(type(e).__name__, flush=True), **where
    )


if __name__ == "__main__":
    main()
