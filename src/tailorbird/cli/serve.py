"""``tailorbird serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.options import Json, Loadable, Recipe
from tailorbird.cli.session import say, session


def command(
    context: typer.Context,
    model: Loadable,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; any but this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 for any free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="TAILORBIRD_API_KEY", help="What clients must send as a bearer token."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", show_default="the model's own", help="What clients call the model.")
    ] = None,
    plain_chat: Annotated[
        bool, typer.Option("--plain-chat", help="Lines of `role: text` in place of the model's chat template.")
    ] = False,
    slots: Annotated[int, typer.Option("--slots", help="Requests that take turns.")] = 4,
    queue: Annotated[int, typer.Option("--queue", help="Requests that may wait; more get 429.")] = 32,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Most tokens a request may ask for.")] = 4096,
    max_prompt_tokens: Annotated[
        int | None, typer.Option("--max-prompt-tokens", show_default="what the model allows", help="Of a prompt.")
    ] = None,
    max_messages: Annotated[int, typer.Option("--max-messages", help="Of a conversation.")] = 256,
    max_body: Annotated[int, typer.Option("--max-body", help="Bytes of a request.")] = 2**20,
    grace: Annotated[float, typer.Option("--grace", help="Seconds for running answers when it stops.")] = 10.0,
    dense: Annotated[bool, typer.Option("--dense", help="Unpack the weights: more memory, slower.")] = False,
    recipe: Recipe = None,
    json: Json = False,
) -> None:
    """Serve a model over HTTP, in the shape of OpenAI's API, with a chat page at /. Ctrl-C stops it."""
    from tailorbird.errors import require
    from tailorbird.serve.settings import Settings, bind, url

    this = session(context)
    this.interrupted = lambda: "stopped serving"
    settings = Settings(host, port, api_key, slots, queue, max_body, max_prompt_tokens, max_tokens, max_messages, grace)
    for library in ("fastapi", "uvicorn", "jinja2"):
        require(library, extra="serve")
    # What can't work is told before the model is read.
    with bind(settings) as bound:
        from tailorbird.runtime.chat import ChatTemplate
        from tailorbird.runtime.load import load
        from tailorbird.serve.server import Server
        from tailorbird.serve.service import Service

        loaded = load(model, dense=dense)
        template = ChatTemplate.of(loaded.source, plain=plain_chat)
        service = Service(loaded, name or Path(model).resolve().name, settings, template)

        def ready() -> None:
            if this.json:
                this.emit({"url": url(settings, bound), "model": service.name, "bytes": loaded.nbytes})
            else:
                this.line(f"serving {service.name} at {url(settings, bound)}")
            if template is None:
                say("note: the model has no chat template: only /v1/completions will answer (see --plain-chat)")

        Server(service, ready).run([bound])
    say("stopped serving")
