"""The page: components, words, style and the plain functions behind them."""
