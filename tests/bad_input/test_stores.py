"""Bad stores: refused by name, with a remedy."""

import pytest
from spoil import EVAL, TRAIN, Case, check, cut, far_root, in_store, nothing, spoil, text

CASES = [
    Case(
        "no store",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=none.lmdb"),
        nothing,
        1,
        "none.lmdb: there is no such store; make the store with sr-prepare",
    ),
    Case(
        "store cut",
        (*EVAL[:-1], "hr=x.lmdb", "weights=net.safetensors"),
        cut("x.lmdb/data.mdb"),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store cut in training",
        (*TRAIN[:-2], "data.train=[{hr: x.lmdb}]", "name=n"),
        cut("x.lmdb/data.mdb", 0.8),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store verified when cut",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        cut("x.lmdb/data.mdb", 0.9),
        1,
        "x.lmdb: truncated",
    ),
    Case(
        "store of a far page",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        far_root,
        1,
        "x.lmdb: cannot be opened as LMDB (in LMDB's tree of pages, page 1099511627776 occurs",
    ),
    Case(
        "index damaged",
        (*TRAIN[:-2], "data.train=[{hr: x.lmdb}]", "name=n"),
        spoil("x.lmdb/index", 0.5, 1),
        1,
        "x.lmdb: its file 'index' cannot be read (the file is damaged",
    ),
    Case(
        "index cut",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        cut("x.lmdb/index"),
        1,
        "x.lmdb: its file 'index' cannot be read (the file is damaged",
    ),
    Case(
        "index of another store",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        spoil("x.lmdb/data.mdb", 0.0, 1),
        1,
        "x.lmdb: its files 'index' and 'data.mdb' belong to different stores",
    ),
    Case(
        "store of another version",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        in_store(store=b'{"format": "sr-train store", "version": 3}'),
        1,
        "x.lmdb: has version 3, this sr-train reads versions 1 and 2; make it again",
    ),
    Case(
        "store without its summary's fields",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        in_store(store=b'{"format": "sr-train store", "version": 1}'),
        1,
        "x.lmdb: damaged summary",
    ),
    Case(
        "pixels of a store damaged",
        ("sr-prepare", "store=x.lmdb", "verify=true"),
        spoil("x.lmdb/data.mdb", 0.7),
        1,
        "checksum differs, the pixels are damaged",
    ),
    Case(
        "store without this scale",
        ("sr-eval", "weights=bicubic", "scale=4", "hr=hr", "lr=x.lmdb"),
        nothing,
        1,
        "x.lmdb: contains LR of scales [2], not of 4; run the sr-prepare command that made it again with scales=[2,4]",
    ),
    Case(
        "a file called lmdb",
        ("sr-eval", "weights=bicubic", "scale=2", "hr=f.lmdb"),
        text("f.lmdb"),
        1,
        "f.lmdb: contains no data.mdb, so it is not a store of sr-prepare",
    ),
    Case(
        "store made otherwise",
        ("sr-prepare", "images=hr", "store=x.lmdb", "scales=[2]", "arithmetic=uint8"),
        nothing,
        1,
        "x.lmdb: its LR of x2 was made with arithmetic=float, but arithmetic=uint8 is requested",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[c.id for c in CASES])
def test_bad_input_is_refused_by_name_with_a_remedy(case, invoke, place):
    check(case, invoke, place)
