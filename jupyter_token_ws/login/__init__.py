"""Login: credentials are traded for tickets, which expire, renew themselves and can be revoked.

``tickets`` says what is known of a ticket, ``store`` what every store of them does, ``memory``, ``redis``
and ``sealed`` are the stores. ``directory`` says which server a user belongs to, if it is another. How a
ticket looks and how long it lives are rules of ``protocol``; who may enter is ``guard``'s business.
"""
