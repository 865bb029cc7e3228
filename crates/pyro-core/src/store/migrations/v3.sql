-- Whether the guest's connections to names go through the host's proxy, which is never on record itself.
ALTER TABLE workspaces ADD COLUMN uses_host_proxy INTEGER NOT NULL DEFAULT 0;
-- Certificate authorities beside the image's own: PEM text, and as JSON where it came from.
CREATE TABLE authorities (
    workspace TEXT PRIMARY KEY REFERENCES workspaces (id) ON DELETE CASCADE,
    sources TEXT NOT NULL,
    pem TEXT NOT NULL
) STRICT;
-- Where a seed is from, where its maker knows more than the path, as JSON.
ALTER TABLE workspaces ADD COLUMN seed_origin TEXT;
