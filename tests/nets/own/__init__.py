"""Networks as users write them."""

from own.networks import Plain as Exported  # noqa: F401 - imported to here, defined there
