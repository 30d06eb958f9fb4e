"""What can go wrong, as one tree.

AudioSetError
├── AudioError            (ValueError)         a file or array that cannot become a waveform
│   └── SampleRateError                        a rate outside what can be resampled
├── OptionError           (ValueError)         an argument outside its range
├── WeightsError          (ValueError)         weights that are unknown, incomplete or of another model
│   └── WeightsFormatError                     a file that is not what its reader expects
├── FetchError            (OSError)            a download that did not arrive whole
├── MissingExtraError     (ImportError)        an optional dependency that is not installed
├── RecordError           (ValueError)         an embeddings file that cannot be read or written as asked
├── DatasetError          (ValueError)         a file of a data set that is not as published or does not fit another
└── OutputError           (OSError)            an output that cannot be written where asked

Every message gives the subject (file or argument), what was found, what was expected and what to do next.
"""


class AudioSetError(Exception):
    """Root of every error that this package raises on purpose."""


class AudioError(AudioSetError, ValueError):
    """A file, stream or array cannot be turned into a waveform."""


class SampleRateError(AudioError):
    """A sample rate is outside the range that can be resampled to the model's rate."""


class OptionError(AudioSetError, ValueError):
    """An argument is outside its range."""


class WeightsError(AudioSetError, ValueError):
    """Weights are unknown, incomplete, or belong to another model."""


class WeightsFormatError(WeightsError):
    """A weights file is not in the format that its reader expects, or is damaged."""


class FetchError(AudioSetError, OSError):
    """A remote file could not be fetched and verified."""


class MissingExtraError(AudioSetError, ImportError):
    """An optional dependency is needed for this and not installed."""


class RecordError(AudioSetError, ValueError):
    """An embeddings file or record cannot be read, or cannot hold what was asked."""


class DatasetError(AudioSetError, ValueError):
    """A file of a data set is not in the format that it should be in, is damaged, or does not fit another."""


class OutputError(AudioSetError, OSError):
    """An output cannot be written where it was asked for."""
