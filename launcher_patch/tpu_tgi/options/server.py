"""Addresses, access and log of the service, and this launcher itself."""

from enum import StrEnum

from tpu_tgi.options.option import Option, Panel

LAST_PORT = 65535


class Page(StrEnum):
    """Whether there is a page for people."""

    ON = "on"
    OFF = "off"


SERVER = (
    Option(
        "--hostname",
        Panel.SERVER,
        str,
        "IP address to serve on; another name, as containers set it, means 0.0.0.0.",
        unit="ADDRESS",
        default="0.0.0.0",
    ),
    Option(
        "--port",
        Panel.SERVER,
        int,
        "Port of the HTTP API.",
        unit="PORT",
        default=3000,
        least=0,
        most=LAST_PORT,
        short="-p",
    ),
    Option(
        "--prometheus-port",
        Panel.SERVER,
        int,
        "Port that the stock router binds for a moment while it starts.",
        unit="PORT",
        otherwise="9000, or a free one if that is taken",
        least=1,
        most=LAST_PORT,
        stock_only=True,
    ),
    Option("--api-key", Panel.SERVER, str, "What clients send as `Authorization: Bearer ...`.", unit="KEY"),
    Option(
        "--api-key-file",
        Panel.SERVER,
        str,
        "File with a key on each line; other users of the machine can see --api-key in the list of processes.",
        unit="FILE",
        own=True,
    ),
    Option(
        "--page",
        Panel.SERVER,
        Page,
        "Whether browsers get a page to try the model at the address of the service: on or off. The stock router has "
        "none.",
        unit="on/off",
        default=Page.ON,
        own=True,
    ),
    Option(
        "--page-port",
        Panel.SERVER,
        int,
        "Port on which that page is served beside the stock router, in a process that passes everything else on to it.",
        unit="PORT",
        otherwise="no page beside the stock router",
        least=1,
        most=LAST_PORT,
        own=True,
        stock_only=True,
    ),
    Option(
        "--cors-allow-origin",
        Panel.SERVER,
        list[str],
        "Origin of web pages that may call; may be repeated.",
        unit="ORIGIN",
        default=[],
        otherwise="every origin",
    ),
    Option(
        "--shard-uds-path",
        Panel.SERVER,
        str,
        "Socket between router and shard; -0 is appended.",
        unit="PATH",
        otherwise="in a private directory of this run; with the stock launcher /tmp/text-generation-server",
    ),
    Option(
        "--graceful-termination-timeout",
        Panel.SERVER,
        int,
        "Time for running answers on SIGTERM, and for the shard to end after them.",
        unit="SECONDS",
        default=90,
        least=0,
    ),
    Option(
        "--otlp-endpoint",
        Panel.SERVER,
        str,
        "Collector of OpenTelemetry traces (gRPC).",
        unit="URL",
        otherwise="no traces",
    ),
    Option(
        "--otlp-service-name",
        Panel.SERVER,
        str,
        "The name under which traces are sent.",
        unit="NAME",
        otherwise="text-generation-inference.router, for shards .server",
    ),
    Option("--json-output", Panel.SERVER, bool, "Log as JSON.", default=False),
)

LAUNCHER = (
    Option(
        "--embedded",
        Panel.LAUNCHER,
        bool,
        "Use the launcher and router in Python, even if the stock programs are in PATH.",
        default=False,
        own=True,
    ),
    Option(
        "--dry-run",
        Panel.LAUNCHER,
        bool,
        "Print the numbers, the memory that they take, and what would be started.",
        default=False,
        own=True,
    ),
    Option(
        "--log-level",
        Panel.LAUNCHER,
        str,
        "Of launcher, router and shard. The stock programs also take filters such as text_generation_router=debug.",
        unit="LEVEL",
        default="INFO",
        own=True,
    ),
)
