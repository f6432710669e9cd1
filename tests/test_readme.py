"""What README and docs tell people to type works: commands, options, links and tables."""

from __future__ import annotations

import dataclasses
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import network
from datasets.folder.class_list import read_class_list
from metrics import StreamSegMetrics
from network.pretrained.checkpoint import Checkpoint
from network.summary import model_summary
from utils import options
from utils.visualizer.history import NO_SCORES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUNS = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
IDS = [page.stem for page in PAGES]
LONGEST_README = 220  # lines

# Options of the programs that the commands start, beside our own.
OTHERS_OPTIONS = set(
    "nproc_per_node nnodes signals-to-handle shutdown-timeout no-build-isolation logdir".split()
)
# The commands that these options belonged to are gone; only the changelog names them.
PAST_OPTIONS = {"CHANGELOG": {"prepare_aug", "markdown"}}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command on a page: of bash blocks, and of code within a line."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`((?:python|make|torchrun|pip) [^`]+)`", prose):
        yield shlex.split(code)


def options_of_module(name: str) -> set[str]:
    """The options that `python -m NAME` declares in its source."""
    path = ROOT / name.replace(".", "/")
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    return set(re.findall(r'"--(\w+)"', source))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_parse(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if page.stem in ("extend", "CHANGELOG"):
        pytest.skip("tests/test_extend.py runs its commands; or it names commands that are gone")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for words in commands(page):
        match words:
            case ["python", _, "--help"]:
                assert (ROOT / words[1]).is_file(), words
            case ["python", "main.py", *arguments]:
                assert options.parse_main(arguments).model.model in network.list_models()
            case ["torchrun", *_] if "main.py" in words:
                arguments = words[words.index("main.py") + 1 :]
                assert options.parse_main(arguments).model.model in network.list_models()
            case ["python", "predict.py", *arguments]:
                options.parse_predict(arguments)
            case ["python", "-m", module, *arguments]:
                given = {word[2:] for word in arguments if word.startswith("--")}
                assert given <= options_of_module(module), words
            case ["python", file, *_]:
                assert (ROOT / file).is_file(), words
            case ["make", *arguments]:
                assert {word for word in arguments if "=" not in word} <= set(targets), words
            case ["pip", "install", *_] if "-r" in words:
                assert (ROOT / words[words.index("-r") + 1]).is_file(), words


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_that_are_named_exist(page: Path) -> None:
    known = set(options.flat(options.parse_main([]))) | OTHERS_OPTIONS
    for group in (options.PredictOptions, options.PredecessorOptions):
        known |= {field.name for field in dataclasses.fields(group)}
    known |= PAST_OPTIONS.get(page.stem, set()) | {"help"}
    for words in commands(page):
        if words[:2] == ["python", "-m"] and words[2] != "benchmarks.NAME":
            known |= options_of_module(words[2])
    text = page.read_text(encoding="utf-8")
    known |= set(
        re.findall(r"^\+ +(\w+): \w+ = option", text, flags=re.MULTILINE)
    )  # declared there
    named = re.findall(r"(?<![\w-])--([a-z][\w-]*)", text)
    assert set(named) - known == set()


def anchors(page: Path) -> set[str]:
    """What can stand behind # in a link to the page, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_imports_of_the_predecessor_work() -> None:
    page = (ROOT / "docs" / "predecessor.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| imports |"))
    names = re.findall(r"`([\w.]+)`", row)
    assert len(names) > 5
    for name in names:
        pkgutil.resolve_name(name)


def test_the_class_list_for_masks_reads_them(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "own_images.md").read_text(encoding="utf-8")
    path = tmp_path / "classes.csv"
    path.write_text(re.findall(r"```\n(name,.*?)```", page, flags=re.DOTALL)[0])
    facts = read_class_list(path).facts
    assert facts.class_names == ("background", "cell")
    assert facts.label_table[[0, 255]].tolist() == [0, 1]


def test_every_key_of_a_checkpoint_is_explained() -> None:
    assert set(Checkpoint.__annotations__) <= set(re.findall(r"`([^`\n]+)`", RUNS))


def test_every_value_of_the_history_is_explained() -> None:
    scores = StreamSegMetrics(2).get_results()
    overall = {name for name, value in scores.items() if isinstance(value, float)}
    assert {*NO_SCORES, *overall} <= set(re.findall(r"`([^`\n]+)`", RUNS))


def test_every_option_of_a_step_is_explained() -> None:
    fields = dataclasses.fields(options.OptimOptions)
    assert {field.name for field in fields} <= set(re.findall(r"`--(\w+)", RUNS))


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST_README


def test_the_readme_leads_to_every_page() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in README


def test_the_readme_states_the_costs_of_its_models() -> None:
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d /]+) \|", README, flags=re.MULTILINE)
    assert len(rows) == 10
    for backbone, params, gflops in rows:
        costs = model_summary(f"deeplabv3plus_{backbone}")
        assert params == f"{costs.params / 1e6:.2f}"
        assert gflops == " / ".join(f"{value:.0f}" for value in costs.gflops.values())


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.txt")), ids=lambda p: p.stem)
def test_recipes_parse(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if recipe.name.endswith("_weights.txt"):
        pytest.skip("class weights, read by the recipe that names them")
    parsed = options.parse_main([f"@{recipe}"])
    assert parsed.model.model in network.list_models()
    assert parsed.optim.total_itrs != 30_000  # the default: every recipe says its length
