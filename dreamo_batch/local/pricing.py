"""What an order costs, as exact decimal text.

Examples
--------
>>> size_price(1328, 1328)
'0.0286'
>>> size_price(1664, 936)
'0.0252580055'
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from dreamo_batch.service import parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.local.engine import Order

    Price: TypeAlias = "str | Callable[[Order], str] | None"

DEFAULT_USD = Decimal("0.0286")
# Enough digits that sums of floats would show, few enough that one price survives a float.
SMALLEST_USD = Decimal("1e-10")


def size_price(width: int, height: int) -> str:
    """Scale the page's price of a picture of the default size by the number of pixels.

    Parameters
    ----------
    width, height : int
        Size of the picture in pixels.

    Returns
    -------
    str
        USD as plain decimal text, at most ten decimals.

    Examples
    --------
    >>> size_price(512, 512)
    '0.004251183'
    """
    share = Decimal(width * height) / parameters.SIDE_DEFAULT_PX.value**2
    return format((DEFAULT_USD * share).quantize(SMALLEST_USD).normalize(), "f")


def price_of(order: Order, price: Price) -> str:
    """Give the price of one order under the gateway's setting.

    Parameters
    ----------
    order : Order
        What is drawn.
    price : str, callable or None
        Fixed text, a function of the order giving text, or None for a price by size.

    Returns
    -------
    str
        USD as decimal text.

    Raises
    ------
    ValueError
        If the text is not a plain, finite decimal number of at least 0.

    Examples
    --------
    >>> from dreamo_batch.local.engine import Order
    >>> order = Order("a fox", seed=1, width=1328, height=1328, use_rephraser=True)
    >>> price_of(order, None), price_of(order, "0.05"), price_of(order, lambda order: f"0.0{order.seed}")
    ('0.0286', '0.05', '0.01')
    """
    text = size_price(order.width, order.height) if price is None else price
    return plain_decimal(text(order) if callable(text) else text)


def plain_decimal(text: str) -> str:
    """Check that a text is a plain decimal number, without sign or exponent.

    Parameters
    ----------
    text : str
        The number as text.

    Returns
    -------
    str
        The same text.

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> plain_decimal("0.0286")
    '0.0286'
    """
    if not isinstance(text, str) or not text.isascii() or not text.replace(".", "", 1).isdigit():
        raise ValueError(f'Expected a plain decimal number as text, such as "0.0286", and got {text!r}.')
    return text
