"""Django, with its own server or on gunicorn. In this folder:

    $ python manage.py runserver 127.0.0.1:8003
    $ gunicorn --bind 127.0.0.1:8003 --workers 3 wsgi:application
    $ python ../reports.py example-django

wsgi.py subscribes, and not `AppConfig.ready`: every command of this program runs that, and the parent of `runserver`'s
autoreloader as well, which would handle events with the code that it began with.
"""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
