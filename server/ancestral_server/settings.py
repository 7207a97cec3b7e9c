"""Every knob of the server, once: a flag, an environment variable `ANCESTRAL_SERVER_*`, and when to change it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def usable_cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


class Settings(BaseSettings):
    """Serve the image models in a folder over gRPC."""

    model_config = SettingsConfigDict(
        env_prefix="ANCESTRAL_SERVER_",
        frozen=True,
        extra="forbid",
        cli_prog_name="ancestral-server",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    models: Path = Field(description="Folder of bundles, NAME/VERSION/bundle.json.")
    host: str = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 to be reached from elsewhere.")
    port: int = Field(default=8500, ge=0, le=65535, description="gRPC port; 0 takes a free one and prints it.")
    metrics_port: int = Field(default=9464, ge=0, le=65535, description="Prometheus port; 0 takes a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to run; cuda exits if there is no usable GPU, auto then takes the CPU."
    )
    threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        description="CPU threads of a run, and runs of a sampler or of bulk at a time; fewer where other programs need "
        "the cores.",
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Whole servers behind the one port, each with its share of the threads and metrics on its "
        "own port, counted up from --metrics-port. For many cores, where single calls keep one Python process busy.",
    )
    share_port: bool = Field(
        default=False,
        description="Listen beside other servers on the same port, each of which gets a part of the connections; for "
        "processes that are started by other means than --processes.",
    )
    max_batch: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most images in one run; more raises throughput, memory and latency.",
    )
    slots: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Images that a pixel-by-pixel sampler paints at a time, on the CPU per thread; more raises "
        "throughput a little, and the latency of each.",
    )
    max_queued_images: int = Field(
        default=20_000, ge=1, description="Images that may wait per model and role before calls are refused."
    )
    max_queued_calls: int = Field(
        default=1_000, ge=1, description="Calls that may wait per model and role before others are refused."
    )
    max_queue_ms: float = Field(
        default=50.0,
        ge=0,
        description="Work that may wait per model and role before interactive calls are refused; a full batch always "
        "may. More smooths bursts, at the cost of latency under overload.",
    )
    max_sample_count: int = Field(default=10_000, ge=1, description="Most images of one Sample call.")
    max_images: int = Field(default=10_000, ge=1, description="Most images or latents in one call that brings its own.")
    max_message_mib: int = Field(default=64, ge=1, le=2000, description="Largest gRPC message, MiB.")
    batch_wait_ms: float = Field(
        default=20.0,
        ge=0,
        le=1000,
        description="Longest that a call waits for others to join its batch; a lone one hardly ever.",
    )
    drain_seconds: float = Field(
        default=30.0, ge=0, description="On SIGTERM or SIGINT, how long running calls may take to finish."
    )
    poll_seconds: float = Field(
        default=2.0,
        ge=0,
        description="How often to look for versions that came, changed or went; 0: never, only LoadModel counts.",
    )
    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="Log lines for people or for machines; auto is text on a terminal, else json."
    )
    log_calls: bool = Field(default=False, description="Log every call, not only those that fail.")

    @property
    def max_message_bytes(self) -> int:
        return self.max_message_mib * 2**20
