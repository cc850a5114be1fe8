"""`make demo`: the main job on real data in a few minutes, then everything is ended again.

Starts the embedded stack on free ports with a temporary home, uploads scikit-learn's handwritten
digits (1,797 pictures of 8x8 pixels with 17 levels), trains three families through ``POST /train``, asks
every verb over HTTP, prints what came back and writes pictures to ``demo-output/``.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.cli.client import Client, Json, ServiceError
from service.cli.datasets import upload
from service.cli.files import tensor
from service.cli.jobs import watch
from service.cli.output import console, print_table

OUTPUT = Path("demo-output")
START_SECONDS = 90.0
SHADES = " .:-=+*#%@"
# Family → config and budget; small enough for two cores and a few minutes.
TRAINED: dict[str, Json] = {
    "pca": {"config": {}, "budget": {}},
    "vae": {"config": {"dropout": 0.1}, "budget": {"seconds": 40}},
    "flow": {"config": {"dropout": 0.2}, "budget": {"seconds": 60}},
}


class DemoError(Exception):
    """The demonstration cannot go on; the message holds what the stack logged last."""


def main() -> int:
    """Run the demonstration; 0 where everything answered."""
    # SIGTERM unwinds like Ctrl-C, so that the stack is ended in either case.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="latentserve-demo-") as folder, running_stack(Path(folder)) as url:
            demonstrate(Client(url))
    except KeyboardInterrupt:
        console.print("stopped; everything that was started has been ended")
        return 130
    except (ServiceError, DemoError) as error:
        console.print(f"[red]the demonstration failed:[/] {error}", soft_wrap=True)
        return 1
    say(f"\nDone in {time.monotonic() - started:.0f} s; everything that was started has been ended.")
    say(
        "Go on:\n"
        "  make run                                 start the service and keep it up (.venv/bin/latentserve up)\n"
        "  .venv/bin/latentserve --help             upload your own data, train, ask\n"
        "  README.md                                every verb by curl, what the numbers mean\n"
        f"  {OUTPUT}/                             the pictures of this run"
    )
    return 0


@contextmanager
def running_stack(folder: Path) -> Iterator[str]:
    """Start the stack in ``folder``, yield its address, and end it; a failure shows the end of every log."""
    home = folder / "home"
    log = folder / "supervisor.log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LATENTSERVE_")}
    environment |= {"LATENTSERVE_HOME": str(home), "LATENTSERVE_PORT": "0"}
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.supervisor"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield await_ready(supervisor, home)
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            show_logs([log, *sorted((home / "logs").glob("*.log"))])
        raise
    finally:
        supervisor.terminate()
        try:
            supervisor.wait(40)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()


def await_ready(supervisor: subprocess.Popen[bytes], home: Path) -> str:
    """Wait until every part is up and return the address."""
    with console.status("starting two Valkey servers, two workers and the gateway …"):
        begun = time.monotonic()
        while time.monotonic() - begun < START_SECONDS:
            if supervisor.poll() is not None:
                raise DemoError("the stack did not start; its log is above")
            try:
                state = json.loads((home / "stack.json").read_text())
            except FileNotFoundError:
                state = {}
            if state.get("ready"):
                console.print(f"stack ready at {state['url']} after {time.monotonic() - begun:.1f} s")
                return str(state["url"])
            time.sleep(0.1)
    raise DemoError(f"the stack was not ready within {START_SECONDS:.0f} s")


def show_logs(logs: list[Path], lines: int = 12) -> None:
    """Print the end of each log."""
    for log in logs:
        if log.exists() and log.stat().st_size:
            console.rule(log.name)
            console.print("\n".join(log.read_text(errors="replace").splitlines()[-lines:]), markup=False)


def demonstrate(client: Client) -> None:
    """Upload, train, ask every verb."""
    images, labels = load_digits()
    dataset = upload_digits(client, images, labels)
    console.print(f"uploaded digits: {dataset['rows']} rows, {dataset['parts']}")
    for family, asked in TRAINED.items():
        train(client, family, asked)
    show_densities(client)
    show_anomalies(client, images, labels)
    show_imputation(client, images)
    show_vectors(client, images, labels)
    show_samples(client)


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bundled digits: pictures ``(1797, 8, 8, 1)`` of levels 0..16 and what each shows."""
    from sklearn.datasets import load_digits as bundled

    found = bundled()
    return found.images.astype(np.uint8)[..., None], found.target.astype(np.int64)


def upload_digits(client: Client, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Json:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "digits.npz"
        np.savez_compressed(file, x=images, y=labels)
        return upload(client, "digits", [file], {"image": {"levels": 17}})


def train(client: Client, family: str, asked: Json) -> None:
    body = {"name": f"digits-{family}", "dataset": "digits", "seed": 0, **asked}
    body["config"] = {"family": family, **asked["config"]}
    job = client.post("/train", body)
    ended = watch(client, job["id"], label=f"training {family:4}")
    if ended["status"] != "succeeded":
        raise DemoError(f"training {family} {ended['status']}: {(ended.get('error') or {}).get('detail')}")


def show_densities(client: Client) -> None:
    def row(family: str) -> tuple[object, ...]:
        metrics = client.get(f"/models/digits-{family}")["card"]["metrics"]
        return (family, metrics["bits_per_dim"], metrics["log_prob_nats"], metrics["kind"], metrics["measure"])

    console.print()
    print_table(
        ("family", "bits per dim", "nats per digit", "kind", "measure"),
        map(row, TRAINED),
        title="How well each model knows digits it never saw (fewer bits are better)",
    )


def show_anomalies(client: Client, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    answer = client.post("/log_prob", {"model": "digits-flow", "inputs": tensor(images)})
    values = np.array([-np.inf if value is None else value for value in answer["log_prob"]])
    lowest = np.argsort(values)[:5]
    say(f"\nThe five strangest of {len(images)} digits by /log_prob of {answer['model']}, in {answer['unit']}:")
    say(beside([draw(images[index]) for index in lowest], console.width))
    print_table(("row", "label", "log_prob"), ((int(i), int(labels[i]), float(values[i])) for i in lowest))


def show_imputation(client: Client, images: NDArray[np.uint8]) -> None:
    digit = images[:1]
    hidden = np.zeros(digit.shape, dtype=bool)
    hidden[:, 4:] = True
    shown = np.where(hidden, 0, digit).astype(np.uint8)
    answers = {
        family: client.post(
            "/predict",
            {
                "model": f"digits-{family}",
                "inputs": tensor(shown),
                "mask": tensor(hidden),
                "seed": 1,
                "format": "numbers",
            },
        )
        for family in ("pca", "vae")
    }
    means = [draw(as_picture(answer["mean"][0])) for answer in answers.values()]
    console.print(
        "\nThe lower half of a digit hidden and filled in by /predict: given, mean by pca, mean by vae, truth"
    )
    console.print(beside([draw(shown[0]), *means, draw(digit[0])]), markup=False)
    print_table(
        ("model", "log p(mean | upper half)", "kind"),
        ((answer["model"], answer["log_prob"][0], answer["kind"]) for answer in answers.values()),
    )


def show_vectors(client: Client, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    query = images[:3]
    found = client.post(
        "/similarity",
        {"model": "digits-vae", "query": tensor(query), "against": {"inputs": tensor(images[3:])}, "top_k": 5},
    )
    console.print()
    print_table(
        ("digit", "its nearest neighbours are", "cosine, from", "to"),
        (
            (int(labels[row]), [int(labels[3 + index]) for index in indices], float(scores[0]), float(scores[-1]))
            for row, (indices, scores) in enumerate(zip(found["indices"], found["scores"], strict=True))
        ),
        title=f"Nearest neighbours by /similarity of {found['model']} among {len(images) - 3} others",
    )
    encoded = client.post("/encode", {"model": "digits-vae", "inputs": tensor(query)})
    decoded = client.post("/decode", {"model": "digits-vae", "vectors": encoded["vectors"], "space": encoded["space"]})
    say(
        f"\n/encode gives {len(encoded['vectors'][0])} numbers per digit in space {encoded['space'][:12]}…; "
        "/decode brings them back (above the digits, below what came back):"
    )
    say(beside([draw(each) for each in query], console.width))
    say("")
    say(beside([draw(as_picture(each)) for each in decoded["rows"]], console.width))


def show_samples(client: Client) -> None:
    OUTPUT.mkdir(exist_ok=True)
    written = []
    for family in TRAINED:
        picture, _ = client.post_for_bytes(
            "/sample", {"model": f"digits-{family}", "n": 100, "seed": 7}, accept="image/png"
        )
        file = OUTPUT / f"samples-{family}.png"
        enlarge(picture).save(file)
        written.append(str(file))
    say(f"\n/sample wrote pictures of 100 new digits each: {', '.join(written)}")


def enlarge(picture: bytes, times: int = 6) -> Image.Image:
    """The picture with every pixel made a square: eight pixels a side are hard to see."""
    opened = Image.open(io.BytesIO(picture))
    return opened.resize((times * opened.width, times * opened.height), Image.Resampling.NEAREST)


def as_picture(row: Any) -> NDArray[np.float64]:
    return np.asarray(row, dtype=np.float64)


def draw(image: NDArray[np.generic], levels: int = 17) -> list[str]:
    """A picture as lines of characters, two per pixel."""
    grey = np.clip(
        np.asarray(image, dtype=np.float64).reshape(image.shape[0], image.shape[1], -1)[..., 0], 0, levels - 1
    )
    shades = np.rint(grey / (levels - 1) * (len(SHADES) - 1)).astype(int)
    return ["".join(SHADES[shade] * 2 for shade in line) for line in shades]


def beside(pictures: list[list[str]], width: int = 200) -> str:
    """Pictures next to each other, framed at the sides; what is over ``width`` columns goes below."""
    per_line = max(1, (width + 2) // (len(pictures[0][0]) + 4))
    groups = [pictures[start : start + per_line] for start in range(0, len(pictures), per_line)]
    return "\n\n".join(
        "\n".join("  ".join(f"|{line}|" for line in lines) for lines in zip(*group, strict=True)) for group in groups
    )


def say(text: str) -> None:
    """Print a line as it is: the terminal breaks it, not we."""
    console.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
