"""Styles of accompaniment: who plays, and which rhythms.

Rhythms are strings of sixteenths, `x` accented, `o` soft, `.` silent; a bar in three uses the first
twelve. Programs are General MIDI, counted from 0; from 128 on they are drum kits (128 + kit).
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Style:
    """What a band plays. Programs of the chordal parts are drawn from the tuples."""

    tempo_bpm: tuple[int, int]
    drums: str  # a key of DRUMS, "" for none
    bass: tuple[str, ...]  # keys of BASS, one is drawn; () for none
    basses: tuple[int, ...] = (33, 34, 35)
    comp: tuple[str, ...] = ()  # rhythms of chords, one is drawn; () for none
    comps: tuple[int, ...] = (0,)
    pads: tuple[int, ...] = ()
    arpeggios: tuple[int, ...] = ()
    fillers: tuple[int, ...] = ()  # counter-melodies and riffs
    swing: float = 0.0  # delay of the off-beats, in sixteenths
    sevenths: float = 0.2  # share of chords with a seventh

    def played_by(self, program: int) -> "Style":
        """The style with one instrument for its bass, chords and arpeggios."""
        return replace(self, basses=(program,), comps=(program,), arpeggios=(program,))


STYLES = {
    "rock": Style(
        (90, 160),
        "rock",
        ("eighths", "roots"),
        (33, 34),
        ("eighths", "strum"),
        (27, 29, 30, 25),
        (16, 18, 48),
        (),
        (27, 29, 30, 81),
    ),
    "ballad": Style(
        (55, 90),
        "ballad",
        ("long", "fifths"),
        (32, 33, 35),
        ("quarters", "whole"),
        (0, 4, 5, 25),
        (48, 49, 50, 89, 52),
        (0, 4, 24, 25),
        (48, 40, 26, 68, 73),
    ),
    "jazz": Style(
        (90, 200),
        "jazz",
        ("walk",),
        (32,),
        ("charleston", "offbeats"),
        (0, 26, 4, 11, 16),
        (),
        (),
        (56, 59, 66, 57, 11),
        1.2,
        0.95,
    ),
    "bossa": Style(
        (110, 150),
        "bossa",
        ("bossa",),
        (32, 33),
        ("bossa",),
        (24, 26, 0),
        (48, 49),
        (),
        (73, 11, 57),
        0.0,
        0.8,
    ),
    "funk": Style(
        (85, 125),
        "funk",
        ("funk", "octaves"),
        (36, 37, 33),
        ("scratch", "charleston"),
        (27, 7, 28, 16),
        (50,),
        (),
        (61, 62, 56, 66),
        0.0,
        0.7,
    ),
    "orchestra": Style(
        (55, 120),
        "",
        ("long", "roots"),
        (43, 42),
        ("quarters", "whole"),
        (48, 45, 60),
        (48, 49, 60, 52),
        (46, 45, 48),
        (68, 71, 40, 60, 42, 73),
    ),
    "electronic": Style(
        (100, 150),
        "dance",
        ("octaves", "eighths"),
        (38, 39),
        ("offbeats", "scratch"),
        (81, 62, 90, 80),
        (89, 90, 95, 50, 94),
        (80, 81, 87, 99),
        (81, 80, 98, 102),
    ),
    "folk": Style(
        (70, 130),
        "",
        ("roots", "fifths"),
        (32,),
        ("strum", "eighths"),
        (24, 25, 105),
        (21, 48),
        (24, 25, 15, 46),
        (110, 22, 74, 105),
    ),
    "piano": Style(
        (55, 130),
        "",
        ("long", "roots"),
        (0,),
        ("quarters", "charleston", "whole"),
        (0, 1),
        (),
        (0,),
        (),
    ),
    "drums and bass": Style((80, 170), "rock", ("eighths", "funk", "octaves"), (33, 34, 36, 38)),
    "trio": Style(
        (80, 150),
        "ballad",
        ("roots", "fifths", "eighths"),
        (33, 35),
        ("strum", "whole"),
        (25, 27, 0, 18),
        (),
        (),
        (26, 18),
    ),
}

DRUMS = {  # several bars each; keys of the General MIDI drum map
    "rock": (
        {36: "x.....x.x.......", 38: "....x.......x...", 42: "x.o.x.o.x.o.x.o."},
        {36: "x..x....x.x.....", 38: "....x..o....x...", 51: "x.o.x.o.x.o.x.o."},
        {36: "x.x.....x.x...x.", 40: "....x.......x..o", 46: "x...x...x...x..."},
    ),
    "ballad": (
        {36: "x.........x.....", 37: "....x.......x...", 42: "o.o.o.o.o.o.o.o."},
        {36: "x......xx.......", 38: "....x.......x...", 51: "x...o...x...o.o."},
    ),
    "jazz": (
        {51: "x...x..ox...x..o", 44: "....x.......x...", 36: "o...o...o...o..."},
        {51: "x...x..ox...x..o", 44: "....x.......x...", 38: ".......o......o."},
    ),
    "bossa": ({36: "x..xx..xx..xx..x", 37: "x..x..x...x..x..", 42: "xoxoxoxoxoxoxoxo"},),
    "funk": (
        {36: "x..x......x..x..", 38: "....x..o.o..x..o", 42: "xoxoxoxoxoxoxoxo"},
        {
            36: "x.x....x..x.....",
            38: "....x..o....x.o.",
            42: "x.xox.o.x.xoo.x.",
            46: "......x.........",
        },
    ),
    "dance": (
        {36: "x...x...x...x...", 39: "....x.......x...", 46: "..x...x...x...x."},
        {36: "x...x...x...x.o.", 38: "....x.......x...", 42: "xoxoxoxoxoxoxoxo"},
    ),
}
KITS = {"jazz": (160, 168, 128), "dance": (152, 153), "rock": (128, 136, 144)}

BASS = {  # R root, 5 fifth, 8 octave, w a step of a walk
    "eighths": "R.R.R.R.R.R.R.R.",
    "roots": "R.......R.....R.",
    "fifths": "R.....R.5.....5.",
    "long": "R...............",
    "walk": "w...w...w...w...",
    "bossa": "R.....5.5.....R.",
    "funk": "R..R..8.R.R...5R",
    "octaves": "R.8.R.8.R.8.R.8.",
}
COMP = {
    "eighths": "x.o.x.o.x.o.x.o.",
    "strum": "x...x.xo.oxox.xo",
    "quarters": "x...o...x...o...",
    "whole": "x...............",
    "charleston": "x.....x.........",
    "offbeats": "..x...x...x...x.",
    "bossa": "x..o..x...x..o..",
    "scratch": "..xo..x..xo...xo",
}
