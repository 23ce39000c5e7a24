"""Tests of Customer.io and Hightouch."""
