"""JPEG files looked through before they are decoded, and decoded so that damage inside is heard (ITU-T T.81).

Pillow's decoder knows when a scan's data end early or go on after its last block, and keeps it to itself: it fills the
rest of the picture with grey and says nothing. It can be heard all the same, without a second decoder: it is fed each
scan's data without the marker that follows. A scan that is whole is finished before more is asked for; for one that is
cut, more is asked for; one that was disturbed is often finished too early. The restart markers are counted besides.

What cannot be heard: a flipped bit after which the codes fall into step again, as libjpeg does not hear it either; and
in progressive files and between restart markers, damage that makes the data longer.
"""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, NamedTuple

from PIL import Image, ImageFile, _imaging

from ..errors import BrokenImage, NotAnImage, TooComplex

#: The most scans that are decoded; libtiff and GDAL stop at as many (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER). libjpeg's
#: own progression has 10 for a colour photo.
MAX_SCANS: Final = 100
#: The most segments, bytes between segments, and bytes of tables before it. 10 MB of metadata are 160 segments.
_MAX_SEGMENTS: Final = 1000
_MAX_GARBAGE: Final = 65_536
_MAX_TABLES: Final = 65_536
#: The most restart intervals of a scan that are looked at one by one; more are counted only.
_MAX_INTERVALS: Final = 10_000
#: Bytes after a scan's last block that are no damage: webcams are known for a few.
_STRAY: Final = 16
#: As many as libjpeg's bit buffer holds: with them a scan that is whole is decoded without the marker after it.
_PAD: Final = bytes(8)
#: Line feeds that are looked at for what was before them.
_LINE_ENDS: Final = 16
# Within a scan only stuffing (FF00), fill (FFFF) and restart markers (FFD0 to FFD7) follow FF.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART: Final = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS: Final = bytes(range(0xD0, 0xD8))
_SOI, _EOI, _SOS, _DRI, _DHT, _DQT, _APP0, _APP1, _APP2, _APP14, _COM = (
    0xD8, 0xD9, 0xDA, 0xDD, 0xC4, 0xDB, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE,
)  # fmt: skip
_READ: Final = {0xC0: "baseline", 0xC1: "extended sequential", 0xC2: "progressive"}
# T.81, table B.1. libjpeg can be built with some of them; no browser shows them.
_UNREAD: Final = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical progressive",
    0xC7: "hierarchical lossless",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded progressive",
    0xCB: "arithmetic-coded lossless",
    0xCD: "arithmetic-coded hierarchical",
    0xCE: "arithmetic-coded hierarchical progressive",
    0xCF: "arithmetic-coded hierarchical lossless",
    # ITU-T T.87.
    0xF7: "JPEG-LS",
}
_EXIF: Final = b"Exif\0\0"
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"


class _Component(NamedTuple):
    """A component of the frame: its sampling factors."""

    horizontal: int
    vertical: int


class _Scan(NamedTuple):
    """Where a scan's segments begin, where its entropy-coded data begin and end, and what they code."""

    head: int
    begin: int
    end: int
    components: bytes
    restart: int


@dataclass(slots=True)
class Jpeg:
    """What a JPEG file has in it, without its metadata.

    Attributes:
        data: the file.
        header: what a decoder needs of all that comes before the first scan's data.
        width, height: in pixels, as they are stored.
        scans: in their order.
        exif: its EXIF block without the heading, empty if there is none; as it stands in the file, valid or not.
        xmp: its XMP packet, likewise.
        progressive: whether its scans refine each other.
    """

    data: bytes
    header: bytes = b""
    width: int = 0
    height: int = 0
    exif: bytes = b""
    xmp: bytes = b""
    progressive: bool = False
    scans: tuple[_Scan, ...] = ()
    _components: dict[int, _Component] | None = None
    _missing: int = 0

    @property
    def one_scan(self) -> bool:
        """Whether it is decoded in one pass; otherwise its decoder keeps all coefficients until the last scan."""
        return len(self.scans) == 1 and not self.progressive and len(self.scans[0].components) == len(self._parts)

    @property
    def mode(self) -> str:
        """Pillow's name for what its components are together."""
        return {1: "L", 3: "RGB", 4: "CMYK"}[len(self._parts)]

    @property
    def samples(self) -> int:
        """Samples of all components that all scans go through together."""
        return sum(self._blocks(scan) * 64 for scan in self.scans)

    @property
    def _parts(self) -> dict[int, _Component]:
        return self._components or {}

    def _side(self, component: _Component, interleaved: bool) -> tuple[int, int]:
        """Blocks of a component in a row and in a column, in whole MCUs where components are interleaved (A.2)."""
        widest = max(part.horizontal for part in self._parts.values())
        tallest = max(part.vertical for part in self._parts.values())
        if interleaved:
            return (
                -(-self.width // (8 * widest)) * component.horizontal,
                -(-self.height // (8 * tallest)) * component.vertical,
            )
        across = -(-self.width * component.horizontal // widest)
        down = -(-self.height * component.vertical // tallest)
        return -(-across // 8), -(-down // 8)

    def _blocks(self, scan: _Scan) -> int:
        interleaved = len(scan.components) > 1
        sides = [self._side(self._parts[number], interleaved) for number in scan.components]
        return sum(across * down for across, down in sides)

    def _units(self, scan: _Scan) -> int:
        """Minimum coded units of a scan, which restart intervals are counted in."""
        if len(scan.components) > 1:
            first = self._parts[scan.components[0]]
            across, down = self._side(first, True)
            return across // first.horizontal * (down // first.vertical)
        return self._blocks(scan)

    def feed(self, decoder: Any, scan_end: int | None = None) -> bool:
        """Decodes all of it.

        Args:
            decoder: a new one of Pillow's, with its image set.
            scan_end: where the only scan's data end, if not where ``scans`` says.

        Returns:
            Whether a picture of one scan was finished before its data were.

        Raises:
            BrokenImage: a scan's data end early, or the decoder cannot go on.
        """
        view = memoryview(self.data)
        # The header goes with the first data: each call is a turn at the interpreter's lock.
        done, left = False, self.header
        for scan in self.scans:
            # What stands between scans is tables and the next scan's header.
            begin = scan.begin if scan is self.scans[0] else scan.head
            end = scan_end or scan.end
            for interval in self._intervals(scan):
                done, left = self._give(decoder, b"".join((view[begin:interval], _PAD)), left)
                if left:
                    raise self.damaged("its data end before a restart marker")
                if done:
                    # One more restart marker than intervals is no damage.
                    return end - interval > _STRAY
                begin = interval
            if self.one_scan:
                tail = max(begin, _without_padding(self.data, begin, end) - _STRAY)
                done, left = self._give(decoder, view[begin:tail], left)
                if done:
                    return True
                begin = tail
            done, left = self._give(decoder, b"".join((view[begin:end], _PAD)), left)
            if done:
                return False
            if self.one_scan or left:
                raise self.damaged("its data end before its last pixel")
        done, left = self._give(decoder, bytes((0xFF, _EOI)), left)
        if not done:
            raise self.damaged("its data end before its last pixel")
        return False

    def _intervals(self, scan: _Scan) -> list[int]:
        """Where a scan's restart intervals but the last end; none if there are too many to look at each."""
        if not scan.restart or self._units(scan) > _MAX_INTERVALS * scan.restart:
            return []
        return [match.start() for match in _RESTART.finditer(self.data, scan.begin, scan.end)]

    def _give(self, decoder: Any, data: bytes | memoryview, left: bytes) -> tuple[bool, bytes]:
        """Feeds a decoder; whether it is done, and what it has not taken."""
        if left:
            data = left + bytes(data)
        if not data:
            return False, b""
        taken, error = decoder.decode(data)
        if error < 0:
            raise self.damaged(ImageFile.ERRORS.get(error, "it cannot be decoded"))
        return taken < 0, b"" if taken < 0 else bytes(data[taken:])

    def scan_end(self) -> int:
        """Where the first scan's data really end: at the first marker that does not belong into a scan."""
        found = _MARKER.search(self.data, self.scans[0].begin)
        return found.start() if found else len(self.data)

    def check_restarts(self) -> None:
        """Raises BrokenImage if restart markers are missing, or not in their order: a part of the picture is lost."""
        for scan in self.scans:
            if not scan.restart:
                continue
            expected = max(0, -(-self._units(scan) // scan.restart) - 1)
            found = islice(_RESTART.finditer(self.data, scan.begin, scan.end), expected + 2)
            order = b"".join(match[1] for match in found)
            # Some encoders write one more, after the last interval.
            if len(order) - expected not in (0, 1) or order != (_RESTARTS * (len(order) // 8 + 1))[: len(order)]:
                raise self.damaged(f"{len(order)} of {expected} restart markers are where they belong")

    def check_complete(self) -> None:
        """Raises BrokenImage if scans are missing that a progressive picture needs for its last bit."""
        if self._missing:
            raise self.damaged("its last scans are missing")

    def check_line_ends(self) -> None:
        """Raises BrokenImage if every line feed in the picture's data has a carriage return before it.

        That is what a transfer in text mode makes of them; of 4 by chance it would happen in one file of 4 billion.
        """
        at, found = self.scans[0].begin - 1, 0
        end = self.scans[0].end
        if self.data[end : end + 1] != b"\xff":
            # Without a marker behind them nobody knows which bytes are the picture's.
            return
        while found < _LINE_ENDS and (at := self.data.find(b"\n", at + 1)) >= 0:
            if self.data[at - 1] != 0x0D:
                return
            found += 1
        if found >= 4:
            raise self.damaged("it was sent as text: every line feed in it has a carriage return before it")

    def damaged(self, how: str) -> BrokenImage:
        """The error that says so."""
        return BrokenImage(f"The JPEG image is truncated or damaged inside ({how}). Send the complete file's bytes.")


def _without_padding(data: bytes, begin: int, end: int) -> int:
    """``end`` without the zeros and fill bytes before it, up to 64 KiB of them."""
    start = max(begin, end - 65_536)
    return start + len(data[start:end].rstrip(b"\0\xff"))


def parse(data: bytes) -> Jpeg:
    """Looks through a JPEG file, which begins with SOI, without decoding anything.

    Raises:
        NotAnImage: it is of a kind that is not read.
        BrokenImage: it has no picture, or ends before it.
        TooComplex: more scans, segments or tables than a photo has.
    """
    jpeg = Jpeg(data)
    walk = _Walk(jpeg)
    walk.to_first_scan()
    walk.scans()
    return jpeg


class _Walk:
    """One way through a file's segments."""

    def __init__(self, jpeg: Jpeg) -> None:
        self.jpeg = jpeg
        self.at = 2
        self.segments = 0
        self.garbage = 0
        self.restart = 0
        self.components: dict[int, _Component] = {}
        self.spectra: dict[int, list[int]] = {}
        self.multiple = False

    def marker(self) -> int | None:
        """The next marker; ``at`` is then behind it. None at the end of the file."""
        data = self.jpeg.data
        self.segments += 1
        if self.segments > _MAX_SEGMENTS:
            raise TooComplex(
                f"The JPEG image has more than {_MAX_SEGMENTS} segments; a photo has tens. Send it without "
                "its metadata."
            )
        begin = self.at
        while (found := data.find(b"\xff", self.at)) >= 0:
            self.at = found + 1
            while data[self.at : self.at + 1] == b"\xff" and self.at - begin <= _MAX_GARBAGE:
                self.at += 1
            if self.at - begin + self.garbage > _MAX_GARBAGE:
                break
            # Neither stuffing nor a restart marker begins a segment.
            if self.at < len(data) and data[self.at] and not 0xD0 <= data[self.at] <= 0xD8:
                self.garbage += self.at - begin - 1
                self.at += 1
                return data[self.at - 1]
        if found >= 0 or len(data) - begin > _MAX_GARBAGE:
            raise BrokenImage(
                f"The JPEG image has more than {_MAX_GARBAGE} bytes between its segments that belong to none: it is "
                "damaged. Send the complete file."
            )
        return None

    def segment(self) -> bytes:
        """The parameters of the segment that begins at ``at``; ``at`` is then behind it."""
        data, at = self.jpeg.data, self.at
        size = int.from_bytes(data[at : at + 2])
        if size < 2 or at + size > len(data):
            raise self.jpeg.damaged("one of its segments goes beyond its end")
        self.at = at + size
        return data[at + 2 : at + size]

    def to_first_scan(self) -> None:
        """Collects what comes before the first scan's data."""
        jpeg = self.jpeg
        kept, tables, exif = [b"\xff\xd8"], 0, []
        while True:
            marker = self.marker()
            if marker is None or marker == _EOI:
                raise jpeg.damaged("it ends before its first scan")
            if marker == 0x01:
                continue
            begin = self.at
            found = self.segment()
            if marker in _READ:
                self.frame(marker, found)
            elif marker in _UNREAD:
                raise NotAnImage(
                    f"The bytes are a JPEG of the {_UNREAD[marker]} kind, which is not read; baseline and progressive "
                    "ones are. Save it as an ordinary JPEG or as PNG."
                )
            elif marker == _DRI and len(found) >= 2:
                self.restart = int.from_bytes(found[:2])
            elif marker in (_DQT, _DHT):
                tables += len(found)
            elif marker == _APP1 and found.startswith(_EXIF):
                exif.append(found[len(_EXIF) :])
                continue
            elif marker == _APP1 and found.startswith(_XMP):
                jpeg.xmp = found[len(_XMP) :]
                continue
            elif marker == _APP2 and found.startswith(b"MPF\0"):
                self.multiple = True
                continue
            elif marker != _SOS and not (
                # What says which colours the components are.
                (marker == _APP0 and found.startswith(b"JFIF")) or (marker == _APP14 and found.startswith(b"Adobe"))
            ):
                continue
            if tables > _MAX_TABLES:
                raise TooComplex("The JPEG image has more tables than a photo needs. Save it again.")
            kept.append(jpeg.data[begin : self.at])
            kept[-1] = bytes((0xFF, marker)) + kept[-1]
            if marker == _SOS:
                break
        jpeg.header, jpeg.exif = b"".join(kept), b"".join(exif)
        if not self.components:
            raise jpeg.damaged("a scan comes before the frame's header")
        jpeg._components = self.components
        self.first = found

    def frame(self, marker: int, found: bytes) -> None:
        """Reads a frame header (B.2.2)."""
        jpeg = self.jpeg
        if self.components:
            raise jpeg.damaged("it has two frame headers")
        if len(found) < 6 or len(found) < 6 + 3 * found[5]:
            raise jpeg.damaged("its frame header is cut")
        if found[0] != 8:
            raise NotAnImage(
                f"The bytes are a JPEG of {found[0]} bits a channel, which is not read. Save it with 8 bits a channel."
            )
        if found[5] not in (1, 3, 4):
            raise NotAnImage(
                f"The bytes are a JPEG of {found[5]} channels, which is not read; those of 1, 3 and 4 are. Save "
                "it as RGB."
            )
        jpeg.height, jpeg.width = int.from_bytes(found[1:3]), int.from_bytes(found[3:5])
        jpeg.progressive = marker == 0xC2
        for at in range(6, 6 + 3 * found[5], 3):
            component = _Component(found[at + 1] >> 4, found[at + 1] & 15)
            if not (1 <= component.horizontal <= 4 and 1 <= component.vertical <= 4):
                raise jpeg.damaged("its sampling factors are none")
            self.components[found[at]] = component
        if not (jpeg.width and jpeg.height and len(self.components) == found[5]):
            raise jpeg.damaged("its frame header says that it has no pixels")

    def scan_header(self, found: bytes) -> bytes:
        """Reads a scan header (B.2.3); the numbers of its components."""
        if not found or len(found) < 1 + 2 * found[0] + 3:
            raise self.jpeg.damaged("a scan's header is cut")
        chosen = found[1 : 1 + 2 * found[0] : 2]
        if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= self.components.keys():
            raise self.jpeg.damaged("a scan's header names components that it does not have")
        first, last, approximation = found[1 + 2 * found[0] :][:3]
        if self.jpeg.progressive and first <= last <= 63:
            for number in chosen:
                spectrum = self.spectra.setdefault(number, [15] * 64)
                spectrum[first : last + 1] = [approximation & 15] * (last + 1 - first)
        return chosen

    def scans(self) -> None:
        """Finds all scans; the end of the only one is a guess that ``Jpeg.feed`` puts to the test."""
        jpeg, data = self.jpeg, self.jpeg.data
        chosen, head, begin = self.scan_header(self.first), self.at, self.at
        found = []
        if not jpeg.progressive and len(chosen) == len(self.components):
            whole = data.endswith(b"\xff\xd9") and not (self.multiple or self.restart)
            jpeg.scans = (_Scan(head, begin, len(data) - 2 if whole else len(data), chosen, self.restart),)
            if not whole:
                jpeg.scans = (_Scan(head, begin, jpeg.scan_end(), chosen, self.restart),)
            return
        while True:
            marker = _MARKER.search(data, begin)
            end = marker.start() if marker else len(data)
            found.append(_Scan(head, begin, end, chosen, self.restart))
            if len(found) > MAX_SCANS:
                raise TooComplex(
                    f"The JPEG image has more than {MAX_SCANS} scans; a photo has about 10. Save it again as an "
                    "ordinary JPEG."
                )
            head = self.at = end
            if not self.to_next_scan():
                break
            chosen, begin = self.scan_header(self.first), self.at
        jpeg.scans = tuple(found)
        if jpeg.progressive:
            jpeg._missing = sum(any(self.spectra.get(number, [15])) for number in self.components)
        else:
            jpeg._missing = len(self.components.keys() - {number for scan in found for number in scan.components})

    def to_next_scan(self) -> bool:
        """Whether there is another scan; its header is then ``first``."""
        while (marker := self.marker()) not in (None, _EOI):
            begin = self.at
            found = self.segment()
            if marker == _SOS:
                self.first = found
                return True
            if marker == _DRI and len(found) >= 2:
                self.restart = int.from_bytes(found[:2])
            elif marker not in (_DQT, _DHT, _COM) and not _APP0 <= (marker or 0) < _COM:
                self.at = begin
                return False
        return False


def decode(jpeg: Jpeg, scale: int = 1) -> Image.Image:
    """The pixels of a file that was looked through, by Pillow's own decoder, fed so that damage is heard.

    Args:
        jpeg: what ``parse`` found.
        scale: 1, 2, 4 or 8: each side is that many times smaller, by the DCT.

    Returns:
        Grey levels, RGB, or CMYK (as Adobe writes it, inverted); as they are stored, whatever EXIF says.

    Raises:
        BrokenImage: it is damaged.
    """
    jpeg.check_line_ends()
    jpeg.check_complete()
    jpeg.check_restarts()
    picture = Image.new(jpeg.mode, (-(-jpeg.width // scale), -(-jpeg.height // scale)), None)
    try:
        early = jpeg.feed(_decoder(picture, scale))
    except BrokenImage:
        if not jpeg.one_scan or jpeg.scan_end() == jpeg.scans[0].end:
            raise
        early = True
    if early:
        # There may be a second picture, or whatever else a phone puts behind the first.
        end = jpeg.scan_end()
        early = end == jpeg.scans[0].end or jpeg.feed(_decoder(picture, scale), end)
        # Without an end marker nobody knows whether they are this picture's.
        if early and jpeg.data[end : end + 2] == b"\xff\xd9":
            raise jpeg.damaged("its data go on after its last pixel")
    return picture


def _decoder(picture: Image.Image, scale: int) -> Any:
    raw = "CMYK;I" if picture.mode == "CMYK" else picture.mode
    decoder = _imaging.jpeg_decoder(picture.mode, raw, "", scale, 0)
    decoder.setimage(picture.im, (0, 0, *picture.size))
    return decoder
