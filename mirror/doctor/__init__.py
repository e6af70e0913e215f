"""Finding out what is wrong: what each check looks at, what it finds, what to do about it. Changes nothing."""
