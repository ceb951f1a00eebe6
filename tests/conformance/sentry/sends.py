"""Errors of a Python program, sent by Sentry's own SDK: `sends.py WHAT DSN`."""

import logging
import sys
import time

import sentry_sdk

# Far from every frame, so that it is not in the lines around one.
WHO = {"email": "private@example.com", "ip_address": "203.0.113.9"}
WHAT, DSN = sys.argv[1:3]


class PriceError(Exception):
    pass


def look_up(basket):
    return basket["sku"]


def price(basket):
    try:
        return look_up(basket) * 3
    except KeyError as error:
        raise PriceError(f"no price for basket {id(basket)}") from error


def start(encoding="gzip", **more):
    # With the package brotli beside it the SDK would take `br` by itself.
    more["_experiments"] = {"transport_compression_algo": encoding}
    sentry_sdk.init(dsn=DSN, release="shop@2.1.0", environment="production", server_name="worker-1", **more)


def errors():
    """One bug, met by three people; chained causes, breadcrumbs, tags, local variables."""
    start()
    for n in range(4):
        with sentry_sdk.isolation_scope() as scope:
            scope.set_user({"id": f"u-{n % 3}", **WHO})
            scope.set_tag("queue", "push")
            scope.set_tag("email", WHO["email"])
            sentry_sdk.add_breadcrumb(category="cart", message="opened the basket", level="info", data={"items": n, "user_email": WHO["email"]})
            try:
                price({"name": "x"})
            except PriceError as error:
                sentry_sdk.capture_exception(error)
    for n in range(2):
        logging.getLogger("shop").error("order %s cannot be delivered", 4711 + n)
    sentry_sdk.flush(20)


def brotli():
    start("br")
    try:
        [][1]
    except IndexError as error:
        sentry_sdk.capture_exception(error)
    sentry_sdk.flush(20)


def big():
    """Near to what an event may have; long texts, which the SDK leaves as they are where it is told so."""
    start(max_value_length=10**6)
    for n in range(200):
        sentry_sdk.add_breadcrumb(category="cart", message=f"step {n} " + "é" * 1000)
    sentry_sdk.set_context("big", {"text": "x" * 300_000})
    try:
        {}.popitem()
    except KeyError as error:
        sentry_sdk.capture_exception(error)
    sentry_sdk.flush(20)


def bad_key():
    start()
    sentry_sdk.capture_message("never seen")
    sentry_sdk.flush(20)


def limited():
    """More than the project may send: the SDK is told to wait, and does."""
    lost = []
    start(auto_session_tracking=False)
    transport = sentry_sdk.get_client().transport
    record = transport.record_lost_event
    transport.record_lost_event = lambda *a, **k: (lost.append(a or k), record(*a, **k))[1]
    for n in range(12):
        sentry_sdk.capture_message(f"limited {n}")
        sentry_sdk.flush(20)
        time.sleep(0.05)
    print(len(lost))


globals()[WHAT]()
