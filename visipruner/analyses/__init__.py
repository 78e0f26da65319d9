"""The paper's analyses on any model that the engine serves: numbers first, then figures."""
