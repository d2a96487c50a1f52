"""Applies changed settings to the running daemon, without touching sources that stay the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from streamer.core.events import SourceState
from streamer.engine.supervisor import Supervisor
from streamer.inputs import InputError, SourceSettings, make_inputs
from streamer.settings import INPUTS, OUTPUTS, Settings, SettingsError, extra
from streamer.sources import Source
from streamer.system import logs

logger = logging.getLogger(__name__)


class Reloader:
    """Reads the settings again and applies what can change without a restart.

    `settings` are those in force, `inputs` the sources in use, as `make_inputs` returned them;
    `apply_outputs` applies those of the outputs, or raises `InputError`.
    """

    def __init__(
        self,
        settings: Settings,
        read_settings: Callable[[], Settings],
        inputs: Mapping[str, tuple[SourceSettings, Source]],
        supervisor: Supervisor,
        apply_outputs: Callable[[Settings], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._read_settings = read_settings
        self._inputs = dict(inputs)
        self._supervisor = supervisor
        self._apply_outputs = apply_outputs

    async def reload(self) -> None:
        """Read and apply the settings; if they cannot be used, log why and change nothing."""
        try:
            settings = self._read_settings()
            # In a thread, since it may search for devices.
            inputs = await asyncio.to_thread(make_inputs, settings, self._reusable_sources())
            if not inputs:
                raise SettingsError("nothing to hear is left")
            await self._apply_outputs(settings)
            logs.set_level(settings.log_level)
            await self._supervisor.change(source for _, source in inputs.values())
            self._inputs = inputs
            self._warn_of_ignored_changes(settings)
        except (SettingsError, InputError) as error:
            logger.error("settings not read again: %s", error)
        except Exception as error:  # a defect must not end the daemon
            logger.error("settings not read again: %s: %s", type(error).__name__, error)

    def _reusable_sources(self) -> dict[SourceSettings, Source]:
        """Return the sources that can be kept, by their settings.

        A source that has failed is made anew; one that has ended is not played again.
        """
        return {
            self._inputs[name][0]: listener.source
            for name, listener in self._supervisor.listeners.items()
            if listener.status.state is not SourceState.FAILED
        }

    def _warn_of_ignored_changes(self, settings: Settings) -> None:
        """Log which changed settings take effect only after a restart."""
        changed = [
            name
            for name, field in type(settings).model_fields.items()
            if getattr(settings, name) != getattr(self._settings, name)
            and extra(field, "group") not in (INPUTS, OUTPUTS)
            and name not in ("log_level", "colours")
        ]
        if changed:
            logger.warning("%s: changed settings that hold after a restart", ", ".join(changed))
