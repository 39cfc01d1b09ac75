"""A group of commands, each in a module of its own.

The module is loaded when its command is called or its help is asked for, so that none pays for another.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["Group"]


class Group(click.Group):
    """`homes`: for each command the module that has it, under the command's name."""

    def __init__(self, *arguments: Any, homes: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the table."""
        return list(self._homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its module."""
        if cmd_name not in self._homes:
            return None
        found: click.Command = getattr(importlib.import_module(self._homes[cmd_name]), cmd_name)
        return found
