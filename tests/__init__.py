"""Tests of slq and its adapters."""
