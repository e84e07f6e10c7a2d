"""What the server does under load, beside the engine alone and beside others."""
