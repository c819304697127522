"""What happens: mailboxes, supervisors, and the actors that carry payments out."""
