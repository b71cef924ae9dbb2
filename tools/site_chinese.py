"""Hook of mkdocs: Chinese pages have a Chinese navigation, in which the Chinese pages come first."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # tests read the titles without mkdocs
    from mkdocs.structure.nav import Navigation
    from mkdocs.structure.pages import Page

TITLES = {
    "Start": "首页（英文）", "Use": "使用（英文）", "Results": "结果（英文）", "Long runs": "长时间训练（英文）",
    "Help": "帮助（英文）", "Develop": "二次开发（英文）", "aistudio.md": "AI Studio", "datasets.md": "数据集",
    "networks.md": "网络", "paddleseg.md": "PaddleSeg", "methods.md": "方法", "practice.md": "实际应用",
    "configuration.md": "配置参考", "model_zoo.md": "模型库", "evaluation.md": "评估", "deploy.md": "部署",
    "visualdl.md": "曲线与图像（VisualDL）", "reproduction.md": "复现论文",
    "repository/tests/parity/README.md": "与原版的数值对齐",
    "sensitivity.md": "超参数敏感性", "toy_seeds.md": "演示的多种子结果", "toy_self_training.md": "生成街景上的自训练",
    "reliability.md": "可靠性与续训", "performance.md": "性能", "scaling.md": "多卡训练", "hardware.md": "硬件",
    "troubleshooting.md": "常见问题", "migration.md": "从其他项目迁移", "api.md": "Python API",
    "architecture.md": "架构", "extending.md": "扩展", "repository/CONTRIBUTING.md": "参与贡献",
    "repository/CHANGELOG.md": "更新记录",
}  # fmt: skip
CHINESE = "中文"  # the section of the Chinese pages


def on_page_context(context: dict, page: Page, config, nav: Navigation) -> dict:
    """Pages are rendered one after the other: every entry gets the title in the language of this page."""
    chinese = page.file.src_uri.startswith("zh/")
    for item in [*nav.items, *nav.pages]:
        item.english = getattr(item, "english", item.title)
        key = item.english if item.is_section or item.is_homepage else item.file.src_uri
        item.title = TITLES.get(key, item.english) if chinese else item.english
    config.theme["language"] = "zh" if chinese else "en"
    if chinese:
        section = next(item for item in nav.items if item.english == CHINESE)
        context["nav"] = copy.copy(nav)
        context["nav"].items = [*section.children, *(item for item in nav.items if item is not section)]
    return context
