"""Measured speed: does less work take less time?"""
