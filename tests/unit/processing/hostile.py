"""Chat templates that want what is not theirs, or that nobody could render."""

TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ raise_exception('no') }}",
    "{% for %}",
    "{{ messages[0].content.nothing.there }}",
    "{{ 1 / 0 }}",
]
