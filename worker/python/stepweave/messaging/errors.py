"""What can go wrong between this process and NATS."""

from __future__ import annotations

from stepweave.error_types import ErrorType
from stepweave.errors import StepweaveError


class MessagingError(StepweaveError):
    """Base of the errors of this layer."""

    error_type = ErrorType.RETRYABLE_ERROR


class ConnectFailed(MessagingError):
    """No NATS server answered, or it refused us."""


class NotConnected(MessagingError):
    """The connection is closed, or was not back in time."""


class NoResponders(MessagingError):
    """Nobody listens on the subject of a request."""


class RequestTimeout(MessagingError):
    """A request got no answer in time; it may have been carried out all the same."""


class PayloadTooLarge(MessagingError):
    """Headers and payload are more than the server takes; sending them would cost the connection."""

    def __init__(self, subject: str, size_bytes: int, size_bytes_max: int) -> None:
        super().__init__(
            f"a message of {size_bytes} bytes for {subject} is over the server's limit of"
            f" {size_bytes_max} bytes"
        )
        self.subject = subject
        self.size_bytes = size_bytes
        self.size_bytes_max = size_bytes_max


class PublisherFull(MessagingError):
    """Too many publishes wait for their acknowledgement; await `room()` first."""


class PublishTimeout(MessagingError):
    """JetStream did not acknowledge in time; the message may be stored all the same."""


class PublishRefused(MessagingError):
    """JetStream answered a publish with an error; `code` is its status, `err_code` its own number."""

    def __init__(self, subject: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused a message for {subject}: {description} ({code}/{err_code})")
        self.subject = subject
        self.code = code
        self.err_code = err_code
        self.description = description
