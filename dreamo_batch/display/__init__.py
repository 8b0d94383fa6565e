"""What people look at: the gallery, contact sheets, the live panel and the report."""
