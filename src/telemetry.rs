//! Owns (to be written): telemetry.
