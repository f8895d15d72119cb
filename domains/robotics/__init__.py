"""Robotics: policies that sample chunks of actions, trained on demonstrations and scored in simulators."""
