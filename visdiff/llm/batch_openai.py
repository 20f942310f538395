"""The Batch API of OpenAI-compatible endpoints: a day to answer in, at half the price at OpenAI."""

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
"""States in which nothing more happens to a batch."""

# In the metadata of a batch: our name for it.
_NAME = "visdiff"
# Seconds by which two clocks may differ.
_SKEW = 3600
_UPLOAD_S = 600.0
_NO_ANSWER = ("http", "timeout", "connection", "budget")


class BatchChat(OpenAIChat):
    """A model behind an OpenAI-compatible endpoint that also answers batches.

    To whoever looks in the cache it is the model that `visdiff.llm.openai.OpenAIChat` is.
    """

    _tried = False

    def parameters(self, request: Request) -> dict[str, Any]:
        """Write the body of a call, in what is known of the endpoint's dialect."""
        return self._dialect.parameters(request)

    def clean(self, text: Any) -> str:
        """Return a server's words without anything that looks like a key."""
        return self._connect()[1].clean(text)

    def try_out(self, request: Request, cache: Cache) -> bool:
        """Ask the first question alone: what the endpoint does not take is learned from it.

        A parameter that it refuses, a wrong key or an unknown model would otherwise be found out a
        day later, in every line of the batch. The reply is kept in the cache like any other.

        Returns:
            Whether there is a reply. Only the first call asks; later ones return False.

        Raises:
            InputError: No request of this kind can work.
            VisdiffError: The endpoint does not answer.
        """
        if self._tried:
            return False
        result = CachedChat(self, cache).answer([request])[0]
        if isinstance(result, Failure) and result.kind in _NO_ANSWER:
            raise VisdiffError(
                f"expected an answer to the first request from {self.endpoint}, got none "
                f"({result.reason}): nothing is submitted; try again later."
            )
        self._tried = True
        return not isinstance(result, Failure)

    def create(self, name: str, data: bytes) -> str:
        """Upload a batch's file and start the batch.

        Args:
            name: Ours, by which `find` finds it.
            data: The file.

        Returns:
            The server's id.

        Raises:
            InputError: The server has no batches, or does not take the key.
            VisdiffError: It does not work now.
        """
        client = self._connect()[0]
        with self._told("uploading a batch"):
            patient = client.with_options(timeout=max(self.timeout, _UPLOAD_S))
            uploaded = patient.files.create(file=(f"visdiff-{name}.jsonl", data), purpose="batch")
        try:
            with self._told("starting a batch"):
                # No repeats by the client: an answer that was lost would start, and bill, a second.
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
        """Look for a batch of which only our name is known.

        Args:
            name: As given to `create`.
            since: When it was planned, seconds since 1970: older batches are not looked at.

        Returns:
            The server's id, or None when there is no such batch.

        Raises:
            InputError, VisdiffError: As for `create`.
        """
        with self._told("listing the batches"):
            for batch in self._connect()[0].batches.list(limit=100):
                if (batch.metadata or {}).get(_NAME) == name:
                    return batch.id
                if batch.created_at < since - _SKEW:
                    break
        return None

    def retrieve(self, batch: str) -> Batch:
        """Ask how a batch is.

        Raises:
            InputError, VisdiffError: As for `create`; there is no such batch.
        """
        with self._told("asking for the batch", missing="it is another account's, or was removed"):
            return self._connect()[0].batches.retrieve(batch)

    def contents(self, batch: Batch) -> list[bytes]:
        """Download the results of a batch that has ended: the output, then the errors.

        Raises:
            InputError, VisdiffError: As for `create`; the files are gone.
        """
        files = [one for one in (batch.output_file_id, batch.error_file_id) if one]
        client = self._connect()[0].with_options(timeout=max(self.timeout, _UPLOAD_S))
        with self._told("downloading its results", missing="servers keep them for some weeks only"):
            return [client.files.content(one).content for one in files]

    @contextmanager
    def _told(self, what: str, missing: str | None = None) -> Iterator[None]:
        """Turn the client's errors into sentences without secrets.

        Args:
            what: Is being done.
            missing: Why there may be nothing at an address (HTTP 404); None where that means that
                the server has no batches at all.
        """
        teller = self._connect()[1]
        try:
            yield
        except openai.APIStatusError as error:
            said = f"HTTP {error.status_code}: {teller.clean(error.message)}"
            if missing is not None and error.status_code in (404, 410):
                raise VisdiffError(
                    f"{what} did not work ({said}): {missing}; give it up with --forget, and "
                    "submit again"
                ) from None
            if error.status_code in (404, 405, 501):
                raise InputError(
                    f"expected an endpoint with the Batch API, got none at {self.endpoint} "
                    f"({said}): run the ordinary command, which asks one by one."
                ) from None
            # Raises for a key that is not accepted.
            teller.status(error, pictures=False)
            raise VisdiffError(
                f"{what} did not work at {self.endpoint} ({said}): nothing is lost; try again later"
            ) from None
        except openai.APITimeoutError:
            raise VisdiffError(
                f"{what} did not work: no answer from {self.endpoint} in time; nothing is lost; "
                "try again later"
            ) from None
        except openai.APIConnectionError as error:
            raise teller.unreachable(error) or VisdiffError(
                f"{what} did not work: the connection to {self.endpoint} was lost; nothing is "
                "lost with it; try again later"
            ) from None
        except (openai.OpenAIError, ValueError) as error:
            raise VisdiffError(
                f"{what} did not work: what {self.endpoint} answers cannot be read "
                f"({teller.clean(error)}); nothing is lost; try again later"
            ) from None
