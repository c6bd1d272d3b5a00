"""What tests are built from: databases, servers, resources, and the reading of replies."""
