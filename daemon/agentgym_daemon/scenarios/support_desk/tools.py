"""The tools of the support desk, as a team would describe them to its agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentgym_daemon.scenarios.support_desk import results


@dataclass(frozen=True, slots=True)
class DeskTool:
    """One tool of the desk; `parameters` maps a parameter's name to its description."""

    name: str
    description: str
    parameters: dict[str, str] = field(hash=False)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the tool's arguments: required strings, nothing else."""
        properties = {
            name: {"type": "string", "description": text} for name, text in self.parameters.items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.parameters),
            "additionalProperties": False,
        }


_ORDER = {"order_number": "The number of the order, as in the customer's confirmation."}
_ACCOUNT = {"account": "The customer's account id, or the login e-mail if no id is known."}

TOOLS: tuple[DeskTool, ...] = (
    DeskTool(
        "track_order",
        "Find where the parcel of an order is now and when it is expected to arrive.",
        _ORDER,
    ),
    DeskTool(
        "order_details",
        "Look up what was ordered: items, sizes, quantities, prices and the address on file.",
        _ORDER,
    ),
    DeskTool(
        "delivery_reschedule",
        "Move a planned or missed delivery to another day or time slot.",
        {**_ORDER, "new_slot": "The wished day or time slot, in the customer's words."},
    ),
    DeskTool(
        "change_address",
        "Change the shipping address of an order. Works until the parcel reaches the last depot.",
        {**_ORDER, "new_address": "The complete new shipping address."},
    ),
    DeskTool(
        "cancel_order",
        "Cancel an order that has not shipped yet. An authorised payment is released by itself.",
        {**_ORDER, "reason": "Why the customer cancels."},
    ),
    DeskTool(
        "issue_refund",
        "Pay money back for a damaged or lost item, a double charge or a wrong amount.",
        {**_ORDER, "reason": "What the money is paid back for."},
    ),
    DeskTool(
        "refund_status",
        "See whether a refund that was already promised has been sent and when it arrives.",
        _ORDER,
    ),
    DeskTool(
        "start_return",
        "Open a return for an item the customer wants to send back and create its return label.",
        {**_ORDER, "item": "The item that comes back."},
    ),
    DeskTool(
        "exchange_item",
        "Swap a delivered item for another size, colour or variant of the same product.",
        {
            **_ORDER,
            "item": "The item to be swapped.",
            "wanted": "The size, colour or variant the customer wants instead.",
        },
    ),
    DeskTool(
        "warranty_check",
        "Tell whether a product is still under warranty and what the warranty covers.",
        {"product": "The product's name or serial number."},
    ),
    DeskTool(
        "stock_check",
        "Tell whether a product is in stock, how many are left and when it is back.",
        {"product": "The product's name or SKU, with its size or colour."},
    ),
    DeskTool(
        "product_info",
        "Answer questions about a product: dimensions, material, features, compatibility.",
        {"product": "The product's name.", "question": "What the customer wants to know."},
    ),
    DeskTool(
        "apply_discount",
        "Apply a promo code, coupon or agreed discount to a basket or a recent order.",
        {"order_number": "The order's number, or 'basket'.", "code": "The code or the promotion."},
    ),
    DeskTool(
        "gift_card_balance",
        "Show the remaining balance and the expiry date of a gift card.",
        {"card_number": "The gift card's number, GC-0000-0000."},
    ),
    DeskTool(
        "invoice_copy",
        "Send a copy of an invoice or receipt as a PDF, with corrected company details if needed.",
        {"reference": "The order number, invoice number or month."},
    ),
    DeskTool(
        "billing_history",
        "List the past payments and charges of an account.",
        {**_ACCOUNT, "period": "The period to list, for example 'last 6 months'."},
    ),
    DeskTool(
        "update_payment_method",
        "Replace the saved card, bank account or other payment method of an account.",
        {**_ACCOUNT, "method": "The new payment method."},
    ),
    DeskTool(
        "change_plan",
        "Upgrade or downgrade an account's plan, or switch between monthly and yearly billing.",
        {**_ACCOUNT, "plan": "The wished plan or billing period."},
    ),
    DeskTool(
        "cancel_subscription",
        "End a subscription, membership or trial and stop its renewal.",
        {**_ACCOUNT, "reason": "Why the customer leaves."},
    ),
    DeskTool(
        "reset_password",
        "Send a link for setting a new password to a user who forgot theirs.",
        {"user": "The user's login e-mail."},
    ),
    DeskTool(
        "unlock_account",
        "Unlock an account that was blocked after failed logins or by a security rule.",
        {"user": "The user's login e-mail or account id."},
    ),
    DeskTool(
        "update_email",
        "Change the e-mail address of an account, for login as well as for messages.",
        {**_ACCOUNT, "new_email": "The new e-mail address."},
    ),
    DeskTool(
        "add_team_member",
        "Invite a colleague to a workspace and assign a seat and a role.",
        {"email": "Whom to invite.", "role": "viewer, editor, member or admin."},
    ),
    DeskTool(
        "service_status",
        "Report current outages, incidents and planned maintenance of our services.",
        {"component": "The part that does not work, for example 'API' or 'dashboard'."},
    ),
    DeskTool(
        "export_data",
        "Export an account's data as a file; also used for GDPR requests.",
        {**_ACCOUNT, "file_format": "CSV, JSON, Excel or ZIP."},
    ),
    DeskTool(
        "escalate_to_human",
        "Hand the conversation to a human agent or a supervisor, with a short summary.",
        {"summary": "What the customer wants, in one sentence."},
    ),
)

_BY_NAME = {tool.name: tool for tool in TOOLS}


def call(tool: str, arguments: Mapping[str, str]) -> str:
    """Run a tool of the desk; the same arguments always give the same answer."""
    declared = _BY_NAME.get(tool)
    if declared is None:
        raise ValueError(
            f"expected a tool of the support desk, got {tool!r}; known are {', '.join(_BY_NAME)}"
        )
    if set(arguments) != set(declared.parameters):
        raise ValueError(
            f"expected the arguments {sorted(declared.parameters)} for {tool}, "
            f"got {sorted(arguments)}; pass each exactly once"
        )
    return results.FUNCTIONS[tool](**arguments)
