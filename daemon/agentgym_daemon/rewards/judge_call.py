"""One call of an OpenAI-compatible API; runs in the judge's process, with the standard library."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

_MOST_BYTES = 4 * 2**20
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_MAX_REASON = 500


def call(request: dict[str, Any]) -> dict[str, Any]:
    """Asks the model; a score with its reason, tokens and latency. Raises for anything else."""
    body = {"model": request["model"], "messages": request["messages"], "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if key := _key(request["key_file"], request["key_env"]):
        headers["Authorization"] = f"Bearer {key}"
    post = urllib.request.Request(
        f"{request['url']}/chat/completions", json.dumps(body).encode(), headers
    )
    began = time.monotonic()
    try:
        with urllib.request.urlopen(post, timeout=request["timeout_s"]) as response:
            reply = json.loads(response.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(300).decode("utf-8", "replace")
        raise ValueError(f"the judge's API answered {error.code}: {said}") from None
    score, reason = score_of(reply["choices"][0]["message"]["content"])
    usage = reply.get("usage") or {}
    return {
        "score": score,
        "reason": reason,
        "input_tokens": int(usage.get("prompt_tokens") or 0),
        "output_tokens": int(usage.get("completion_tokens") or 0),
        "latency_ms": round((time.monotonic() - began) * 1000),
    }


def score_of(text: str) -> tuple[float, str]:
    """Score and reason in a model's answer; raises ValueError if there is no score in [0, 1]."""
    match = _OBJECT.search(text or "")
    found = json.loads(match[0]) if match else None
    said = found if isinstance(found, dict) else {}
    score = said.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
        raise ValueError(f'expected {{"score": a number in [0, 1], ...}}, got {text[:200]!r}')
    return float(score), str(said.get("reason", ""))[:_MAX_REASON]


def _key(file: str | None, variable: str) -> str:
    if file:
        return Path(file).read_text(encoding="utf-8").strip()
    return os.environ.get(variable, "")
