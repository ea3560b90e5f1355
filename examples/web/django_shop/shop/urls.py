"""The pages, each of which publishes."""

from django.apps import apps
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from eventbus_mp import Event, unique_id

bus = apps.get_app_config("shop").bus


@csrf_exempt
@require_POST
def order_paid(request, order):
    bus.notify(Event(unique_id(), "order_paid", order))  # does not wait for the handler
    return JsonResponse({"order": order})


@csrf_exempt
@require_POST
def price_changed(request, product):
    bus.notify_and_wait(Event(unique_id(), "price_changed", product), timeout_s=10)  # no worker has the old one now
    return JsonResponse({"product": product})


@csrf_exempt
@require_POST
def report_wanted(request, name):
    bus.notify(Event(unique_id(), "report_wanted", name))  # only the pool of reports.py gets it
    return JsonResponse({"report": name})


urlpatterns = [
    path("orders/<order>/paid", order_paid),
    path("prices/<product>/changed", price_changed),
    path("reports/<name>", report_wanted),
]
