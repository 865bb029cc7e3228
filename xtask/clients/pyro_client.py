"""`pyro mcp serve` as the official Python SDK sees it. The program is PYRO, its state and cache are in the environment."""

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters


class Mismatch(Exception):
    """Something is not as it must be."""


def equal(what, got, wanted):
    if got != wanted:
        raise Mismatch(f"{what}: {got!r}, wanted {wanted!r}")


def contains(what, got, part):
    if part not in got:
        raise Mismatch(f"{what}: {got!r} has no {part!r}")


class Session:
    """A client whose results are looked at. The SDK itself holds each against the tool's output schema."""

    def __init__(self, client):
        self.client = client
        self.called = set()

    async def call(self, tool, arguments, **options):
        self.called.add(tool)
        result = await self.client.call_tool(tool, arguments, **options)
        equal(f"{tool}: blocks of content", [block.type for block in result.content], ["text"])
        return result

    async def done(self, tool, **arguments):
        """The structured result of a call that must succeed."""
        result = await self.call(tool, arguments)
        text = result.content[0].text
        if result.is_error:
            raise Mismatch(f"{tool} {arguments}: {text}")
        equal(f"{tool}: text and structure", json.loads(text), result.structured_content)
        return result.structured_content

    async def refusal(self, tool, **arguments):
        """The error of a call that must fail."""
        result = await self.call(tool, arguments)
        equal(f"{tool} {arguments} fails", result.is_error, True)
        told = json.loads(result.content[0].text)
        equal(f"{tool}: ok", told["ok"], False)
        return told["error"]


def parameters(*arguments):
    return StdioServerParameters(command=os.environ["PYRO"], args=["mcp", "serve", *arguments], env=dict(os.environ))


@contextlib.asynccontextmanager
async def over_stdio(*arguments, **options):
    async with Client(parameters(*arguments), **options) as client:
        yield Session(client)


def main(name, story):
    """Runs `story` with a directory of its own and tells in one line how it went."""

    async def within():
        with tempfile.TemporaryDirectory(prefix="pyro-client-") as directory:
            await story(Path(directory).resolve())

    try:
        anyio.run(within)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        first = str(error).partition("\n")[0]
        print(f"{name}: failed: {type(error).__name__}: {first}", flush=True)
        if not isinstance(error, Mismatch):
            raise
        sys.exit(1)
    print(f"{name}: passed", flush=True)
