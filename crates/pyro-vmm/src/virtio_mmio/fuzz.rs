//! A hostile driver.
#![doc(hidden)]
