//! Tests of what the repository promises as a whole: floors, pages, licences. They are in `tests/`.
