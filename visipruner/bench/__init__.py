"""Measured speed: does the work saved become time saved?"""
