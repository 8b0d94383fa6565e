"""Blind choices between two pictures, in a notebook: which group of pictures is better, and how sure that is."""

from __future__ import annotations

import csv
import hashlib
import heapq
import io
import itertools
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from dreamo_batch import arguments, errors
from dreamo_batch import columns as names
from dreamo_batch.appearance import beside_widget
from dreamo_batch.display.gallery import PAGES, page_with_script, widget_class, write_page
from dreamo_batch.display.grid import References, key_of, label_of
from dreamo_batch.engine.picture_cache import Thumbnail
from dreamo_batch.engine.replica import url_of
from dreamo_batch.images import encoded, small_picture
from dreamo_batch.jobs.cells import distinct
from dreamo_batch.jobs.fields import numbered
from dreamo_batch.jobs.tables import decoded
from dreamo_batch.parallel import bars, each
from dreamo_batch.results.frame import places_of, with_additions, with_pictures
from dreamo_batch.results.history import Source, read_results
from dreamo_batch.results.rating_log import UNDO, GrowingTable, positions_in_force, rater_named
from dreamo_batch.text import counted, fill_template

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image


NAME: Final = "comparisons.parquet"
LEFT, RIGHT, TIE = "left", "right", "tie"
CHOICES: Final = (LEFT, RIGHT, TIE)
# A weak prior keeps the strength of a group that won every time finite.
_PRIOR_SD: Final = 2.0
_Z_95: Final = 1.959964
_PICTURES_MAX: Final = 500
_STEPS_MAX: Final = 50
_TOLERANCE: Final = 1e-10
_PICTURE_PX: Final = 900
_REFERENCE_PX: Final = 220
_SAVED: Final = [names.JOB_ID_A, names.JOB_ID_B, names.RATER, names.CHOICE]


def compare(
    source: Source,
    by: str | Sequence[str] = "seed",
    *,
    pairs: int = 40,
    within: str | Sequence[str] | None = "prompt",
    run_dir: str | os.PathLike[str] | None = None,
    rater: str | None = None,
) -> PairedComparison:
    """Let people choose between two pictures at a time, without knowing what they are.

    Two pictures of different groups stand side by side, below the reference and the prompt, but neither seed nor any
    other column is shown. Left arrow, right arrow, or down for a tie; U undoes. Each choice is kept at once in
    `comparisons.parquet` of the run directory, so that several people can choose, and continue at any time.

    Parameters
    ----------
    source : pandas.DataFrame, path or iterable of paths
        Results, or one or more run directories.
    by : str or sequence of str
        Columns whose values are compared; ``"seed"`` is the seed that was sent.
    pairs : int
        How many pairs to show. The same pairs come up for the same pictures, so the same call continues where it
        stopped; a larger number adds pairs. Pairs of groups come up equally often, and each group as often left as
        right.
    within : str, sequence of str, or None
        Only pictures with equal values in these columns are compared. None: any. Where two groups share references,
        only pictures of the same references are compared. Of more than 500 groups with equal values, 500 are.
    run_dir : path, optional
        Where the pictures are; default: where the results came from.
    rater : str, optional
        Who chooses; default as in `rate`.

    Returns
    -------
    PairedComparison
        A notebook shows it; `scores` returns the result.

    Raises
    ------
    UsageError
        If there is no such column, `pairs` is below 1, or fewer than two groups have pictures to compare.
    DirectoryError
        If a directory can't be read.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt=["a beach", "snow"], seed=[1, 2], size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> seeds = dreamo.compare(done, by="seed", pairs=2, rater="ann")
    >>> seeds
    <comparison of 2 groups by seed: 0 of 2 pairs judged by ann>
    >>> for _ in range(2):  # with keys, in a notebook
    ...     seeds.choose("tie")
    >>> seeds.scores()[["seed", "choices", "tied", "strength"]].values.tolist()
    [[1, 2, 2, 0.0], [2, 2, 2, 0.0]]
    """
    arguments.check_count("pairs", pairs)
    return PairedComparison(source, by=by, pairs=pairs, within=within, run_dir=run_dir, rater=rater)


class Pair(NamedTuple):
    """Two pictures of different groups, as positions of rows."""

    left: int
    right: int


class PairedComparison:
    """Blind choices between pairs of pictures; `dreamo_batch.compare` makes it.

    Attributes
    ----------
    rater : str
        Who chooses.
    n_pairs, n_chosen : int
        How many pairs there are, and how many of them the rater has judged.

    Examples
    --------
    >>> import tempfile
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1, 2], size="512x512")
    >>> done = dreamo.run(jobs, tempfile.mkdtemp(), gateway="local", progress=False)
    >>> seeds = dreamo.compare(done)
    >>> seeds.choose("left")
    >>> seeds.n_chosen, seeds.n_pairs
    (1, 1)
    >>> seeds.undo()
    >>> seeds.n_chosen
    0
    """

    def __init__(
        self, source: Any, *, by: Any, pairs: int, within: Any, run_dir: Any, rater: str | None
    ) -> None:
        self.rater = rater_named(rater)
        results = read_results(source, names.PROMPT)
        known = [*results, names.SEED]
        self._by, same = arguments.names_in("by", by, known), arguments.names_in("within", within, known)
        if not self._by:
            raise errors.UsageError("by= is empty; name the columns whose values make the groups.")
        self._results = results.dropna(subset=[names.JOB_ID, names.OUTPUT_PATH])
        self._folders = with_additions(places_of(self._results, run_dir))
        self._references = References(self._results, self._folders)
        self._jobs = self._results[names.JOB_ID].astype(str).tolist()
        self._groups, firsts = _numbered(self._results, self._by)
        strata, _ = _numbered(self._results, same)
        self._labels = pd.DataFrame(
            {name: _column(self._results, name).iloc[firsts].to_numpy() for name in self._by}
        )
        in_stores = {folder for folder in set(self._folders) if url_of(folder) is not None}
        references: list[Any] = [
            tuple(self._references.of_rows([at])) if folder in in_stores or self._path(at).is_file() else None
            for at, folder in enumerate(self._folders)
        ]
        is_whole = False
        while not is_whole:
            # Pictures missing in a store show only when fetched, and only those that come up are fetched.
            self._pairs = draw_pairs(self._jobs, self._groups, strata, references, pairs)
            drawn = sorted({place for pair in self._pairs for place in pair})
            with_pictures(self._results.iloc[drawn], [self._folders[place] for place in drawn])
            gone = [place for place in drawn if not self._path(place).is_file()]
            for place in gone:
                references[place] = None
            is_whole = not gone
        if n_gone := references.count(None):
            errors.warn(f"{counted(n_gone, 'picture')} can't be compared: the file is missing")
        self._is_all = len(self._pairs) < pairs
        if not self._pairs:
            agree = f" and agree in {' and '.join(same)}; pass another by= or within= (None: any two)"
            raise errors.UsageError(
                f"No two pictures differ in {' and '.join(self._by)}{agree if same else ''}."
            )
        self._widget: Any = None

    def to_html(self, path: str | os.PathLike[str], *, progress: bool = True) -> Path:
        """Write a standalone page with all pairs, for people without a notebook; it needs no network.

        Choices are kept in the browser and saved there as a file, which `add_choices` takes in.

        Parameters
        ----------
        path : path
            The file to write, replaced atomically; about 0.1 MB per picture.
        progress : bool
            Show a bar while the pictures are encoded.

        Returns
        -------
        pathlib.Path
            The file written.

        Raises
        ------
        OSError
            If it can't be written.
        """
        target = arguments.output_file("path", path, PAGES)
        places = list({place: None for pair in self._pairs for place in (pair.left, pair.right)})
        with bars(progress):
            pictures = dict(each(places, self._picture, what="encoding pictures"))
        number_of = {place: number for number, place in enumerate(places)}
        references: dict[str, int] = {}
        pairs = [
            {
                "sides": [number_of[pair.left], number_of[pair.right]],
                "jobs": self._jobs_of(pair),
                "references": [references.setdefault(ref, len(references)) for ref in self._shared(pair)],
                "prompt": self._prompt(pair),
            }
            for pair in self._pairs
        ]
        key = hashlib.sha256(repr([self._jobs_of(pair) for pair in self._pairs]).encode()).hexdigest()
        content = {
            "pictures": list(pictures.values()),
            "references": list(references),
            "pairs": pairs,
            "key": f"dreamo-compare-{key}",
            "columns": _SAVED,
        }
        return write_page(
            target, page_with_script("compare_page.html.j2", ["compare", "compare_page"], pairs=content)
        )

    def add_choices(self, path: str | os.PathLike[str]) -> int:
        r"""Keep the choices that somebody saved on a page that `to_html` wrote.

        Parameters
        ----------
        path : path
            The CSV file saved there: ``job_id_a``, ``job_id_b``, ``rater``, ``choice``.

        Returns
        -------
        int
            How many were new; a file can be added again.

        Raises
        ------
        UsageError
            If it isn't such a file, or names pictures that aren't compared here; nothing is kept then.
        TableError
            If it isn't text in UTF-8.
        OSError
            If it can't be read.
        StorageFailed
            If a choice can't be written.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import dreamo_batch as dreamo
        >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="a beach", seed=[1, 2], size="512x512")
        >>> run_dir = Path(tempfile.mkdtemp())
        >>> done = dreamo.run(jobs, run_dir, gateway="local", progress=False)
        >>> seeds = dreamo.compare(done)
        >>> page = seeds.to_html(run_dir / "pairs.html", progress=False)  # for Ann, who saves this file there:
        >>> saved = run_dir / "choices-Ann.csv"
        >>> _ = saved.write_text("job_id_a,job_id_b,rater,choice\n" + ",".join([*done["job_id"], "Ann", "left"]))
        >>> seeds.add_choices(saved), seeds.scores("Ann")["choices"].tolist()
        (1, [1, 1])
        """
        group_of = dict(zip(self._jobs, self._groups, strict=True))
        folder_of = dict(zip(self._jobs, self._folders, strict=True))
        known = {tuple(line) for line in self._choices(None)[_SAVED].astype(str).itertuples(index=False)}
        added: dict[Path, list[dict[str, str]]] = {}
        file = arguments.file_path("path", path)
        for number, line in enumerate(csv.reader(io.StringIO(decoded(file, file.read_bytes()))), start=1):
            if number == 1 and line == _SAVED:
                continue
            one, other, rater, choice = line if len(line) == len(_SAVED) else [""] * len(_SAVED)
            if number == 1 or choice not in CHOICES or not rater:
                raise errors.UsageError(
                    f"{path}, line {number}: expected {', '.join(_SAVED)}, as a page of to_html saves them."
                )
            if not {one, other} <= group_of.keys() or group_of[one] == group_of[other]:
                raise errors.UsageError(f"{path}, line {number}: two pictures that are not compared here.")
            if (one, other, rater, choice) not in known:
                added.setdefault(folder_of[one], []).append(dict(zip(_SAVED, line, strict=True)))
        for folder, lines in added.items():
            comparison_table(folder).append(lines)
        if added and self._widget is not None:
            self._widget.content = self._content()
        return sum(map(len, added.values()))

    @property
    def n_pairs(self) -> int:
        """How many pairs there are."""
        return len(self._pairs)

    @property
    def n_chosen(self) -> int:
        """How many pairs the rater has judged."""
        return self.n_pairs - len(self._open())

    def choose(self, choice: str) -> None:
        """Judge the pair that is shown; the choice is kept at once, and the next one is shown.

        Parameters
        ----------
        choice : {"left", "right", "tie"}

        Raises
        ------
        UsageError
            If it is none of these, or every pair is judged.
        StorageFailed
            If it can't be written.
        """
        arguments.check_choice("choice", choice, CHOICES)
        waiting = self._open()
        if not waiting:
            more = "there are no more" if self._is_all else "pass a larger pairs= for more"
            raise errors.UsageError(f"You have judged every pair; {more}.")
        self._keep(waiting[0], choice)

    def undo(self) -> None:
        """Take back the rater's last choice; its pair is shown again.

        Raises
        ------
        UsageError
            If there is none.
        """
        pair_of = {frozenset(self._jobs_of(pair)): pair for pair in self._pairs}
        last = next((pair_of[key] for key in reversed(self._decided()) if key in pair_of), None)
        if last is None:
            raise errors.UsageError("There is no choice to undo.")
        self._keep(last, UNDO)

    def scores(self, rater: str | None = None) -> pd.DataFrame:
        """Return how strong each group is by the choices made so far, with 95 % intervals.

        A Bradley-Terry model: the chance that a picture of one group is preferred to one of another depends on the
        difference of their strengths, in log-odds. Ties count as half a choice for both. A weak normal prior (standard
        deviation 2) keeps groups that always won finite; intervals are those of the normal approximation.

        Parameters
        ----------
        rater : str, optional
            Only the choices of this person; default: of everybody.

        Returns
        -------
        pandas.DataFrame
            One line per group, the strongest first: its keys, then the columns of `dreamo_batch.columns.STRENGTHS`.
            Strengths are missing where nothing was chosen.
        """
        groups_of = dict(zip(self._jobs, self._groups, strict=True))
        return strength_table(self._labels, groups_of, self._choices(rater))

    def widget(self) -> Any:
        """Return the widget, which takes choices by keys and clicks.

        Returns
        -------
        anywidget.AnyWidget
            The same each time.

        Raises
        ------
        UsageError
            If anywidget is not installed (extra `gallery`).
        """
        if self._widget is None:
            self._widget = widget_class("compare")(content=self._content())
            self._widget.on_msg(self._answer)
        return self._widget

    def _jobs_of(self, pair: Pair) -> tuple[str, str]:
        return self._jobs[pair.left], self._jobs[pair.right]

    def _open(self) -> list[Pair]:
        """Return the pairs that the rater has not judged yet."""
        done = set(self._decided())
        return [pair for pair in self._pairs if frozenset(self._jobs_of(pair)) not in done]

    def _decided(self) -> list[frozenset[str]]:
        """Return the jobs of each pair that the rater has judged, in order."""
        mine = self._choices(self.rater)
        return [frozenset(jobs) for jobs in zip(mine[names.JOB_ID_A], mine[names.JOB_ID_B], strict=True)]

    def _choices(self, rater: str | None) -> pd.DataFrame:
        """Return the last choice of each rater on each pair, of one rater or of all."""
        logs = [comparison_table(folder).frame() for folder in dict.fromkeys(self._folders)]
        log = pd.concat(logs, ignore_index=True).sort_values(names.AT, kind="stable")
        log = log if rater is None else log[log[names.RATER] == rater]
        pairs = map(frozenset, zip(log[names.JOB_ID_A], log[names.JOB_ID_B], strict=True))
        places = positions_in_force(zip(pairs, log[names.RATER], strict=True), log[names.CHOICE])
        return log.iloc[places].reset_index(drop=True)

    def _keep(self, pair: Pair, choice: str) -> None:
        line = dict(zip(_SAVED, (*self._jobs_of(pair), self.rater, choice), strict=True))
        comparison_table(self._folders[pair.left]).append([line])
        if self._widget is not None:
            self._widget.content = self._content()

    def _answer(self, widget: Any, message: Any, _: Any) -> None:
        """Handle a choice from the front end; ignore other messages."""
        try:
            match message:
                # A key pressed twice refers to the pair on screen: the second message has an old number.
                case {"type": "choose", "choice": str(choice), "number": self.n_chosen}:
                    self.choose(choice)
                case {"type": "undo", "number": self.n_chosen}:
                    self.undo()
        except errors.DreamoError as error:
            widget.send({"type": "problem", "text": str(error)})

    def _content(self) -> dict[str, Any]:
        """Return the content of the widget: a pair, or the scores once every pair is judged."""
        waiting = self._open()
        content = {"number": self.n_pairs - len(waiting), "total": self.n_pairs, "scores": ""}
        if not waiting:
            shown = self.scores().drop(columns=[names.N_PICTURES])
            return content | {"scores": shown.round(2).to_html(index=False, border=0, justify="left")}
        pair = waiting[0]
        return content | {
            "left": self._picture(pair.left),
            "right": self._picture(pair.right),
            "references": self._shared(pair),
            "prompt": self._prompt(pair),
        }

    def _path(self, place: int) -> Path:
        return self._folders[place] / str(self._results[names.OUTPUT_PATH].iloc[place])

    def _picture(self, place: int) -> str:
        return _jpeg(small_picture(self._path(place), _PICTURE_PX))

    def _shared(self, pair: Pair) -> list[str]:
        """Return the references of both pictures, each once."""
        shared = self._references.of_rows([pair.left, pair.right]).values()
        return list(filter(None, (_jpeg(reference.image(_REFERENCE_PX)) for reference in shared)))

    def _prompt(self, pair: Pair) -> str:
        """Return the prompt, if both pictures have the same."""
        prompts = {label_of(self._results[names.PROMPT].iloc[row]) for row in (pair.left, pair.right)}
        return prompts.pop() if len(prompts) == 1 else ""

    def __repr__(self) -> str:
        """Show the progress, but nothing about the pictures."""
        return (
            f"<comparison of {len(self._labels)} groups by {' and '.join(self._by)}: {self.n_chosen} of "
            f"{counted(self.n_pairs, 'pair')} judged by {self.rater}>"
        )

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """Show the widget, or without one the pair and how to choose."""
        page = fill_template("compare.html.j2", content=self._content())
        return beside_widget({"text/plain": repr(self), "text/html": page}, self.widget)


def _column(results: pd.DataFrame, name: str) -> pd.Series:
    return results[names.SEED_SENT if name == names.SEED else name]


def comparison_table(run_dir: Path) -> GrowingTable:
    """Return the choices stored in a run directory."""
    return GrowingTable(run_dir / NAME, names.COMPARISONS)


def _numbered(results: pd.DataFrame, columns: Sequence[str]) -> tuple[list[int], list[int]]:
    """Number the combinations of some columns; return each row's number, and the first row of each number."""
    codes = [distinct(_column(results, name).map(key_of)).codes for name in columns]
    numbers = numbered([np.zeros(len(results), np.int64), *codes])
    return numbers.tolist(), np.unique(numbers, return_index=True)[1].tolist()


def _jpeg(picture: Image.Image | None) -> str:
    """Re-encode a picture, so that its metadata reveals nothing; empty if it can't be read."""
    return "" if picture is None else Thumbnail(encoded(picture, quality=88), *picture.size).data_uri


# Which pairs are shown, and how strong each group is by the choices (Bradley-Terry).


def draw_pairs(
    jobs: Sequence[str], groups: Sequence[int], strata: Sequence[int], references: Sequence[Any], n_pairs: int
) -> list[Pair]:
    """Choose pairs of different groups within the same stratum, the same for the same pictures."""
    # Pairs of groups, and single pictures, come up about equally often, each group about as often left as right.
    of_strata: dict[int, list[int]] = {}
    for place in _few_of_each(jobs, groups, strata):
        if references[place] is not None:
            of_strata.setdefault(strata[place], []).append(place)
    possible: dict[tuple[int, int], list[tuple[bytes, int, int]]] = {}
    for places in of_strata.values():
        is_few = len(places) <= _PICTURES_MAX  # all pairs of thousands would fill the memory
        kept = places if is_few else sorted(places, key=lambda place: _hashed(jobs[place]))[:_PICTURES_MAX]
        for one, other in itertools.combinations(kept, 2):
            if groups[one] != groups[other]:
                key = min(groups[one], groups[other]), max(groups[one], groups[other])
                possible.setdefault(key, []).append((_hashed(*sorted((jobs[one], jobs[other]))), one, other))
    for key, found in possible.items():  # of groups that share references, only pictures of the same one
        possible[key] = [pair for pair in found if references[pair[1]] == references[pair[2]]] or found
    order = sorted(possible, key=lambda key: min(possible[key])[0])
    # How often each pair of groups and each group came up; only the next is recounted, as there may be 100,000.
    waiting = [((0, 0), place, key) for place, key in enumerate(order)]
    n_of: Counter[object] = Counter()
    chosen: list[Pair] = []
    while len(chosen) < n_pairs and waiting:
        counted_then, place, key = waiting[0]
        now = n_of[key], n_of["group", key[0]] + n_of["group", key[1]]
        if now != counted_then:
            heapq.heapreplace(waiting, (now, place, key))
            continue
        hashed, one, other = min(
            possible[key], key=lambda pair: (n_of["picture", pair[1]] + n_of["picture", pair[2]], pair[0])
        )
        possible[key].remove((hashed, one, other))
        if not possible[key]:
            heapq.heappop(waiting)
        # On the left is the group that was there less often, first between these two, then overall, else by the hash.
        sides = groups[one], groups[other]
        lead = n_of["left", key, sides[0]] - n_of["left", key, sides[1]]
        lead = lead or n_of["left", sides[0]] - n_of["left", sides[1]]
        left, right = (other, one) if lead > 0 or (lead == 0 and hashed[0] % 2) else (one, other)
        n_of.update([key, *(("group", group) for group in key), ("picture", one), ("picture", other)])
        n_of.update([("left", groups[left]), ("left", key, groups[left])])
        chosen.append(Pair(left, right))
    return chosen


def _few_of_each(jobs: Sequence[str], groups: Sequence[int], strata: Sequence[int]) -> list[int]:
    """Return the indices of pictures to choose from: each job once, and few enough that all pairs can be listed."""
    cells: dict[tuple[int, int], dict[str, int]] = {}
    for place, cell in enumerate(zip(strata, groups, strict=True)):
        cells.setdefault(cell, {}).setdefault(jobs[place], place)
    n_each = max(1, _PICTURES_MAX // max(1, len(cells)))
    return [cell[job] for cell in cells.values() for job in sorted(cell, key=_hashed)[:n_each]]


def _hashed(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()


def strengths(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit Bradley-Terry strengths, and their errors, to a matrix of wins: row over column, ties half for both."""
    # The mode under a normal prior, found by Newton's method, and the errors of the normal approximation there.
    n = len(wins)
    theta, identity = np.zeros(n), np.eye(n)
    centre = identity - 1 / n if n else identity
    games = wins + wins.T
    for _ in range(_STEPS_MAX):
        chance = 1 / (1 + np.exp(theta[None, :] - theta[:, None]))
        weight = games * chance * (1 - chance)
        gradient = wins.sum(axis=1) - (games * chance).sum(axis=1) - theta / _PRIOR_SD**2
        hessian = np.diag(weight.sum(axis=1)) - weight + identity / _PRIOR_SD**2
        step = np.linalg.solve(hessian, gradient)
        theta = theta + step
        if np.abs(step).max(initial=0.0) < _TOLERANCE:
            break
    covariance = centre @ np.linalg.inv(hessian) @ centre.T
    # Rounded so that equal strengths are equal, and plus 0.0 so that 0 has no sign.
    return (centre @ theta).round(9) + 0.0, np.sqrt(np.clip(np.diag(covariance), 0, None))


def strength_table(labels: pd.DataFrame, groups_of: dict[str, int], choices: pd.DataFrame) -> pd.DataFrame:
    """Return one line per group, with its choices and its strength."""
    n = len(labels)
    wins, ties = np.zeros((n, n)), np.zeros(n, int)
    shown: list[set[str]] = [set() for _ in range(n)]
    for one, other, _, choice in choices[_SAVED].itertuples(index=False, name=None):
        if one not in groups_of or other not in groups_of or groups_of[one] == groups_of[other]:
            continue
        a, b = groups_of[one], groups_of[other]
        shown[a].add(one)
        shown[b].add(other)
        share = {LEFT: 1.0, RIGHT: 0.0, TIE: 0.5}[choice]
        wins[a, b] += share
        wins[b, a] += 1 - share
        ties[[a, b]] += choice == TIE
    theta, error = strengths(wins)
    n_won = wins.sum(axis=1) - ties / 2
    n_choices = (wins + wins.T).sum(axis=1)
    theta[n_choices == 0] = np.nan
    table = pd.DataFrame(
        {
            names.N_PICTURES: [len(jobs) for jobs in shown],
            names.N_CHOICES: n_choices,
            names.N_WON: n_won,
            names.N_LOST: n_choices - n_won - ties,
            names.N_TIED: ties,
            names.STRENGTH: theta,
            names.STRENGTH_LOW: theta - _Z_95 * error,
            names.STRENGTH_HIGH: theta + _Z_95 * error,
            names.WINS_SHARE: 1 / (1 + np.exp(-theta)),
        },
        index=labels.index,
    )
    whole = pd.concat([labels, names.typed(table, names.STRENGTHS)], axis=1)
    return whole.sort_values(names.STRENGTH, ascending=False, kind="stable", ignore_index=True)
