"""The Batch API of OpenAI-compatible endpoints: replies within a day, at half price at OpenAI."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
from openai.types import Batch

from visdiff.cache import Cache
from visdiff.errors import InputError, VisdiffError
from visdiff.llm import Failure, Request
from visdiff.llm.batch import ENDPOINT
from visdiff.llm.cached import CachedChat
from visdiff.llm.openai import OpenAIChat

ENDED = ("completed", "failed", "expired", "cancelled")
"""Final states of a batch."""

# Metadata field of a batch that holds our name for it.
_NAME = "visdiff"
# Tolerated difference between the clocks of client and server, in seconds.
_SKEW = 3600
# Of one step of a transfer, and of the whole.
_STEP_S, _TRANSFER_S = 600.0, 7200.0
_NO_ANSWER = ("http", "timeout", "connection", "budget")


class BatchChat(OpenAIChat):
    """A model behind an OpenAI-compatible endpoint with the Batch API.

    It has the same identity, and so the same cache keys, as `visdiff.llm.openai.OpenAIChat`.
    """

    _probed = False
    # A batch is one file, whose lines are parsed one by one.
    _max_bytes = 1_000_000_000

    @property
    def _patience(self) -> openai.Timeout:
        """Timeouts of a file's transfer; the longest one limits the whole."""
        return openai.Timeout(max(self.timeout, _STEP_S), pool=_TRANSFER_S)

    def parameters(self, request: Request) -> dict[str, Any]:
        """Returns the body of a call with the parameters that the endpoint accepts."""
        return self._capabilities.parameters(request)

    def clean(self, text: Any) -> str:
        """Returns a server's message without anything that looks like an API key."""
        return self._connect()[1].clean(text)

    def probe(self, request: Request, cache: Cache) -> bool:
        """Sends the first request alone, to detect what the endpoint does not accept.

        Otherwise an unsupported parameter, an invalid key or an unknown model would be discovered
        a day later, in every line of the batch. The reply is cached like any other.

        Returns:
            Whether there is a reply. Only the first call sends a request; later calls return False.

        Raises:
            InputError: No such request can succeed.
            VisdiffError: The endpoint does not respond.
        """
        if self._probed:
            return False
        result = CachedChat(self, cache).answer([request])[0]
        if isinstance(result, Failure) and result.kind in _NO_ANSWER:
            raise VisdiffError(
                f"Expected a reply to the first request from {self.endpoint}, got none "
                f"({result.reason}); nothing is submitted; try again later."
            )
        self._probed = True
        return not isinstance(result, Failure)

    def create(self, name: str, data: bytes) -> str:
        """Uploads an input file and starts the batch.

        Args:
            name: Our name of the batch, for `find`.
            data: Contents of the file.

        Returns:
            The server's id of the batch.

        Raises:
            InputError: The server has no Batch API, or rejects the key.
            VisdiffError: The request failed for a reason that may pass.
        """
        client = self._connect()[0]
        with self._convert_errors("uploading a batch"):
            patient = client.with_options(timeout=self._patience)
            uploaded = patient.files.create(file=(f"visdiff-{name}.jsonl", data), purpose="batch")
        try:
            with self._convert_errors("starting a batch"):
                # No retries: if only the response is lost, a retry would start and bill a second
                # batch.
                return (
                    client.with_options(max_retries=0)
                    .batches.create(
                        input_file_id=uploaded.id,
                        endpoint=ENDPOINT,
                        completion_window="24h",
                        metadata={_NAME: name},
                    )
                    .id
                )
        except InputError:
            raise
        except VisdiffError:
            found = self.find(name, time.time())
            if found is None:
                raise
            return found

    def find(self, name: str, since: float = 0.0) -> str | None:
        """Finds a batch by our name.

        Args:
            name: The name passed to `create`.
            since: Time of submission in seconds since 1970; older batches are ignored.

        Returns:
            The server's id of the batch, or None if there is none.

        Raises:
            InputError, VisdiffError: As for `create`.
        """
        with self._convert_errors("listing the batches"):
            for batch in self._connect()[0].batches.list(limit=100):
                if (batch.metadata or {}).get(_NAME) == name:
                    return batch.id
                if batch.created_at < since - _SKEW:
                    break
        return None

    def retrieve(self, batch: str) -> Batch:
        """Returns the current state of a batch.

        Raises:
            InputError, VisdiffError: As for `create`, and if there is no such batch.
        """
        with self._convert_errors(
            "retrieving the batch", missing="it belongs to another account, or was removed"
        ):
            return self._connect()[0].batches.retrieve(batch)

    def contents(self, batch: Batch) -> list[bytes]:
        """Downloads the output and error files of a finished batch.

        Raises:
            InputError, VisdiffError: As for `create`, and if the files no longer exist.
        """
        files = [one for one in (batch.output_file_id, batch.error_file_id) if one]
        client = self._connect()[0].with_options(timeout=self._patience)
        with self._convert_errors(
            "downloading the results", missing="servers keep them for a few weeks only"
        ):
            return [client.files.content(one).content for one in files]

    @contextmanager
    def _convert_errors(self, action: str, missing: str | None = None) -> Iterator[None]:
        """Converts the client's errors into visdiff's, with messages free of secrets.

        Args:
            action: The current action, for the message.
            missing: Likely cause of HTTP 404; None if 404 means that the server has no Batch API.
        """
        mapper = self._connect()[1]
        try:
            yield
        except openai.APIStatusError as error:
            reason = f"HTTP {error.status_code}: {mapper.clean(error.message)}"
            if missing is not None and error.status_code in (404, 410):
                raise VisdiffError(
                    f"Expected success in {action}, got {reason}: {missing}; give it up with "
                    "--forget, and submit again."
                ) from None
            if error.status_code in (404, 405, 501):
                raise InputError(
                    f"Expected an endpoint with the Batch API, got none at {self.endpoint} "
                    f"({reason}); run the ordinary command, which sends requests one by one."
                ) from None
            # Raises InputError if the key is not accepted.
            mapper.map_status(error, pictures=False)
            raise VisdiffError(
                f"Expected success in {action}, got {reason} from {self.endpoint}; nothing is "
                "lost: try again later."
            ) from None
        except openai.APITimeoutError:
            raise VisdiffError(
                f"Expected success in {action}, got no response from {self.endpoint} in time; "
                "nothing is lost: try again later."
            ) from None
        except openai.APIConnectionError as error:
            raise mapper.unreachable(error) or VisdiffError(
                f"Expected success in {action}, got a lost connection to {self.endpoint}; nothing "
                "is lost: try again later."
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise VisdiffError(
                f"Expected success in {action}, got an unreadable response from {self.endpoint} "
                f"({mapper.clean(error)}); nothing is lost: try again later."
            ) from None
