"""What can go wrong, without any HTTP in it; ``problems`` says how each is answered.

::

    ClassifierError
    ├── ModelError              the model file cannot be used; the service does not start
    ├── SettingsError           a setting names something that cannot be used; the service does not start
    └── RequestError            the request cannot be answered; the message says what to do about it
        ├── Unauthorized        no API key, or none of the service's
        ├── BadHost             not exactly one Host
        ├── UnknownHost         addressed by a name that CLASSIFIER_ALLOWED_HOSTS does not list
        ├── BodyTooLarge        more bytes than CLASSIFIER_MAX_BODY_BYTES
        ├── BodyTimeout         the body did not arrive in time
        ├── ClientDisconnected  the client left before its request was complete
        ├── UnsupportedBody     a Content-Type that no photo can be read from
        ├── UnsupportedEncoding a Content-Encoding, which nothing here undoes
        ├── MalformedBody       multipart or JSON that does not parse, or has no photo in it
        ├── TooManyImages       more parts than CLASSIFIER_MAX_BATCH_IMAGES
        ├── InvalidParameter    a query parameter out of its range
        ├── NotAnImage          the bytes are none of the supported formats
        ├── BrokenImage         a supported format, but truncated, damaged or of an unsupported kind
        ├── TooManyPixels       the header announces more pixels than CLASSIFIER_MAX_PIXELS
        ├── TooComplex          more scans, chunks or other parts than a picture of its size needs
        ├── UnknownModel        no model of that name is served
        ├── NotOffered          a route of another server's API that stands for something that is not offered here
        ├── NotExplainable      the model's file cannot say where its evidence lies
        ├── ModelRefused        a new model file was not taken; the running model goes on
        ├── NoPreviousModel     there is no earlier model to go back to
        ├── AdminLocked         /admin is used, but nobody has to show a key
        ├── CrossSite           another web page asks for what only the service's own may ask for
        ├── NotThere            a class, photo or training that is not there (any more)
        ├── Conflict            what is asked for does not fit what is there
        ├── StorageFull         the disk or the quota for photos to learn from is full
        ├── Overloaded          no worker would be free within CLASSIFIER_QUEUE_BUDGET_MS
        └── Draining            the service is shutting down
"""

import reprlib
from typing import Any, Final


class ClassifierError(Exception):
    """Base of everything this service raises on purpose."""


class ModelError(ClassifierError):
    """The model file is missing, damaged or not one of ours."""


class SettingsError(ClassifierError):
    """A setting names something that cannot be used; the message begins with its name."""


class RequestError(ClassifierError):
    """A request that cannot be answered; ``str(error)`` is meant for the person who sent it."""


class Unauthorized(RequestError):
    """The request has no API key, or one that the service does not know."""


class BadHost(RequestError):
    """The request does not name exactly one host."""


class UnknownHost(RequestError):
    """The request's Host is none that the service may be addressed by."""


class BodyTooLarge(RequestError):
    """The body has more bytes than allowed."""


class BodyTimeout(RequestError):
    """The body did not arrive within its deadline."""


class ClientDisconnected(RequestError):
    """The client closed the connection before its request was complete; nobody reads the answer."""


class UnsupportedBody(RequestError):
    """The Content-Type is none that a photo can be read from."""


class UnsupportedEncoding(RequestError):
    """The body is compressed, or encoded in another way."""


class MalformedBody(RequestError):
    """The multipart or JSON body does not parse, or has no photo where one is expected."""


class TooManyImages(RequestError):
    """A batch has more photos than allowed."""


class InvalidParameter(RequestError):
    """A parameter is outside the range that the model allows."""


class NotAnImage(RequestError):
    """The bytes are none of the supported image formats."""


class BrokenImage(RequestError):
    """The bytes start like a supported image, but are truncated, damaged or of an unsupported kind."""


class TooManyPixels(RequestError):
    """The image's header announces more pixels than allowed; nothing was decoded."""


class TooComplex(RequestError):
    """The image has more scans, chunks or other parts than a picture of its size needs; nothing was decoded."""


class UnknownModel(RequestError):
    """No model of that name is served."""


class NotOffered(RequestError):
    """The request is understood, but what it asks for is not offered here."""


class NotExplainable(RequestError):
    """The model's file cannot say where its evidence lies."""


class ModelRefused(RequestError):
    """A new model file was not taken; the model that was served before still is."""


class NoPreviousModel(RequestError):
    """There is no earlier model to go back to."""


class AdminLocked(RequestError):
    """Models can be exchanged over HTTP only where clients have to show an API key."""


class CrossSite(RequestError):
    """A web page from elsewhere asks for what only the service's own page may ask for."""


class NotThere(RequestError):
    """There is no such class, photo or training, or not any more."""


class Conflict(RequestError):
    """What is asked for does not fit what is there; the message says what does."""


class StorageFull(RequestError):
    """The quota or the disk for photos to learn from has no room for this; nothing that was there is lost."""


class Overloaded(RequestError):
    """The queue is longer than its budget allows.

    Attributes:
        retry_after_s: seconds after which a place is likely to be free.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(RequestError):
    """The service is shutting down and takes no new work."""


_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 6, 4


def quoted(value: Any) -> str:
    """Something that a client sent, for a message: printable, in quotes if it is a text, and short if it is long."""
    text = _SHORT.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
