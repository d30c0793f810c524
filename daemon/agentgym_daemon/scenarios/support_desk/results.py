"""What each tool of the support desk answers: invented, plausible and always the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

_DEPOTS = ("Leipzig", "Rotterdam", "Birmingham", "Lyon", "Poznan")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS = ("January", "March", "May", "July", "September", "November")
_ITEMS = ("wool sweater", "desk lamp", "espresso cups", "trail boots", "phone case", "oak shelf")


def _number(low: int, high: int, *parts: str) -> int:
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return low + int.from_bytes(digest[:8], "big") % (high - low + 1)


def _pick(options: Sequence[str], *parts: str) -> str:
    return options[_number(0, len(options) - 1, *parts)]


def _reference(prefix: str, *parts: str) -> str:
    return f"{prefix}-{_number(100000, 999999, prefix, *parts)}"


def _euros(*parts: str) -> str:
    return f"{_number(900, 24900, 'euros', *parts) / 100:.2f} EUR"


def _track_order(order_number: str) -> str:
    depot, day = _pick(_DEPOTS, "depot", order_number), _pick(_DAYS, "eta", order_number)
    return f"Order {order_number}: in transit, last scan in {depot}, expected on {day}."


def _order_details(order_number: str) -> str:
    item = {
        "item": _pick(_ITEMS, "item", order_number),
        "quantity": _number(1, 4, "quantity", order_number),
    }
    return json.dumps(
        {"order": order_number, "items": [item], "total": _euros(order_number), "status": "paid"}
    )


def _delivery_reschedule(order_number: str, new_slot: str) -> str:
    booking = _reference("SLOT", order_number, new_slot)
    return f"Delivery of order {order_number} moved to {new_slot} (booking {booking})."


def _change_address(order_number: str, new_address: str) -> str:
    return f"Order {order_number} will be shipped to {new_address}. The label was printed anew."


def _cancel_order(order_number: str, reason: str) -> str:
    case = _reference("CAN", order_number, reason)
    return f"Order {order_number} cancelled ({case}); the payment is released within 2 days."


def _issue_refund(order_number: str, reason: str) -> str:
    refund = _reference("RF", order_number, reason)
    return json.dumps({"refund": refund, "order": order_number, "amount": _euros(order_number)})


def _refund_status(order_number: str) -> str:
    state = _pick(("approved, not yet sent", "sent to the bank", "paid out"), order_number)
    return f"Refund for order {order_number} ({_euros(order_number)}): {state}."


def _start_return(order_number: str, item: str) -> str:
    label = _reference("RL", order_number, item)
    return f"Return opened for {item} of order {order_number}; label {label} sent by e-mail."


def _exchange_item(order_number: str, item: str, wanted: str) -> str:
    case = _reference("EX", order_number, item, wanted)
    return f"Exchange {case}: {item} of order {order_number} for {wanted}, ships in 2 days."


def _warranty_check(product: str) -> str:
    months = _number(-6, 20, "warranty", product)
    if months <= 0:
        return f"The warranty of {product} has expired {-months} months ago."
    return f"{product} is under warranty for {months} more months; wear and drops are excluded."


def _stock_check(product: str) -> str:
    left = _number(0, 12, "stock", product)
    if left == 0:
        return f"{product} is sold out; next delivery in {_pick(_MONTHS, product)}."
    return json.dumps({"product": product, "in_stock": left, "warehouse": _pick(_DEPOTS, product)})


def _product_info(product: str, question: str) -> str:
    sheet = _reference("DS", product)
    answer = _pick(("yes", "no", "in the larger variant only"), product, question)
    return f"{product}: {question} According to data sheet {sheet}: {answer}."


def _apply_discount(order_number: str, code: str) -> str:
    percent = _number(1, 5, "discount", code) * 5
    return f"{code} applied to {order_number}: {percent} % off."


def _gift_card_balance(card_number: str) -> str:
    year = _number(2027, 2030, "expiry", card_number)
    return json.dumps({"card": card_number, "balance": _euros(card_number), "valid_until": year})


def _invoice_copy(reference: str) -> str:
    return f"Invoice {_reference('INV', reference)} for {reference} sent as a PDF."


def _billing_history(account: str, period: str) -> str:
    months = (_pick(_MONTHS, account, period, str(row)) for row in range(3))
    charges = [{"month": month, "amount": _euros(account, month)} for month in months]
    return json.dumps({"account": account, "period": period, "charges": charges})


def _update_payment_method(account: str, method: str) -> str:
    mandate = _reference("PM", account, method)
    return f"Payments of {account} now use {method} (mandate {mandate})."


def _change_plan(account: str, plan: str) -> str:
    return f"{account} is on {plan} from the next bill on, {_euros(plan)} per month."


def _cancel_subscription(account: str, reason: str) -> str:
    case = _reference("END", account, reason)
    return f"Subscription of {account} ends with {_pick(_MONTHS, account)} ({case})."


def _reset_password(user: str) -> str:
    return f"Reset link {_reference('PW', user)} sent to {user}; it works for 30 minutes."


def _unlock_account(user: str) -> str:
    failed = _number(3, 9, "failed", user)
    return f"{user} unlocked after {failed} failed logins; the next login asks for a code."


def _update_email(account: str, new_email: str) -> str:
    return f"Confirmation {_reference('EM', account, new_email)} for {account} sent to {new_email}."


def _add_team_member(email: str, role: str) -> str:
    seats = _number(0, 9, "seats", email)
    return json.dumps({"invited": email, "role": role, "free_seats": seats})


def _service_status(component: str) -> str:
    state = _pick(("operational", "degraded since 08:40 UTC", "under maintenance"), component)
    return f"{component}: {state}."


def _export_data(account: str, file_format: str) -> str:
    job = _reference("JOB", account, file_format)
    return f"Export {job} of {account} as {file_format} started; the link follows by e-mail."


def _escalate_to_human(summary: str) -> str:
    minutes = _number(2, 25, "queue", summary)
    return f"Ticket {_reference('T', summary)} handed to a colleague, wait about {minutes} minutes."


FUNCTIONS: dict[str, Callable[..., str]] = {
    "track_order": _track_order,
    "order_details": _order_details,
    "delivery_reschedule": _delivery_reschedule,
    "change_address": _change_address,
    "cancel_order": _cancel_order,
    "issue_refund": _issue_refund,
    "refund_status": _refund_status,
    "start_return": _start_return,
    "exchange_item": _exchange_item,
    "warranty_check": _warranty_check,
    "stock_check": _stock_check,
    "product_info": _product_info,
    "apply_discount": _apply_discount,
    "gift_card_balance": _gift_card_balance,
    "invoice_copy": _invoice_copy,
    "billing_history": _billing_history,
    "update_payment_method": _update_payment_method,
    "change_plan": _change_plan,
    "cancel_subscription": _cancel_subscription,
    "reset_password": _reset_password,
    "unlock_account": _unlock_account,
    "update_email": _update_email,
    "add_team_member": _add_team_member,
    "service_status": _service_status,
    "export_data": _export_data,
    "escalate_to_human": _escalate_to_human,
}
