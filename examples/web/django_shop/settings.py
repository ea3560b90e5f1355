"""Django's settings, as few as will do."""

SECRET_KEY = "only for this example"
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop.apps.ShopConfig"]
ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "wsgi.application"  # `runserver` loads it in the process that serves, and only there
USE_TZ = True
