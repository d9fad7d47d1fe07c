"""sr-train: SRGAN, EDSR, MDSR, ESRGAN and EDVR from YAML, one command a recipe."""

__version__ = "0.1.0"
